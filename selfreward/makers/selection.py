"""Iteration 0 with ``sft.selection``: what people ranked goes into records, and is judged.

The prompts and the human responses are there already; a model writes only what is needed for the
worse responses, where people ranked none, and the judgments.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from selfreward.config import JurorConfig
from selfreward.engines.sessions import Session
from selfreward.errors import StoppedError
from selfreward.inputs.judge_templates import run_template
from selfreward.inputs.rankings import rankings_of
from selfreward.makers.base import Ask, rate
from selfreward.records import Judgment, Prompt, Record, Response
from selfreward.stages.judgments import judge_response
from selfreward.stages.ranked import answer_other, human_prompt, human_responses, write_other
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.storage.tracker import Tracker

_VOTES_TO_TELL = 48
"""After so many votes without a single verdict the model will not start to give one."""


class RankedPromptMaker:
    """Takes the prompts of the rankings; without human ranks has each one varied."""

    stage = "prompts"

    def __init__(self, run: Run, store: Store, iteration: int, session: Session) -> None:
        sft = run.config.sft
        assert sft is not None and sft.selection is not None
        self._config, self._session = run.config, session
        self._template = None if sft.selection.ranked else run_template(run, "worse")
        self._prompts = [ranking.prompt for ranking in rankings_of(run).rankings]
        self.records = store.records(Prompt, iteration)
        self.tracker = Tracker(store, iteration, self.stage, len(self._prompts))
        self._tokens = 0

    def asks(self, new: Sequence[Record]) -> list[Ask]:
        """One per prompt, all of them the first time."""
        known = {prompt.attempt for prompt in self.records}
        texts, self._prompts = self._prompts, []
        return [
            partial(self._make, attempt, text)
            for attempt, text in enumerate(texts)
            if attempt not in known
        ]

    async def _make(self, attempt: int, text: str) -> Sequence[Record]:
        engine, chat = self._session.engine, self._session.chat
        prompt = human_prompt(chat, attempt, text)
        if self._template is None or prompt.dropped is not None:
            return [prompt]
        settings, run_seed = self._config.prompts, self._config.seed
        return [
            await write_other(engine, chat, self._template, prompt, settings, run_seed=run_seed)
        ]

    def keep(self, new: Sequence[Record]) -> None:
        """See ``Maker``."""
        prompts = [record for record in new if isinstance(record, Prompt)]
        self.records += prompts
        self._tokens += sum(prompt.num_tokens for prompt in prompts)
        self.tracker.advance(len(self.records), note=rate(self._tokens, self.tracker))

    def check(self) -> None:
        """Whether there are prompts enough shows when judgments are selected."""


class RankedResponseMaker:
    """Takes the responses of the rankings; without human ranks adds a worse one to each."""

    stage = "responses"

    def __init__(self, run: Run, store: Store, iteration: int, session: Session) -> None:
        sft = run.config.sft
        assert sft is not None and sft.selection is not None
        self._config, self._session = run.config, session
        self._is_ranked = sft.selection.ranked is not None
        self._rankings = rankings_of(run).rankings
        self.records = store.records(Response, iteration)
        self._answered = {response.attempt for response in self.records}
        total = sum(len(r.responses) + (not self._is_ranked) for r in self._rankings)
        self.tracker = Tracker(store, iteration, self.stage, total)
        self._tokens = 0

    def asks(self, new: Sequence[Record]) -> list[Ask]:
        """One per accepted prompt."""
        return [
            partial(self._make, record)
            for record in new
            if isinstance(record, Prompt)
            and record.dropped is None
            and record.attempt not in self._answered
        ]

    async def _make(self, prompt: Prompt) -> Sequence[Record]:
        engine, chat = self._session.engine, self._session.chat
        texts = [response.text for response in self._rankings[prompt.attempt].responses]
        human = human_responses(chat, prompt.attempt, texts)
        if self._is_ranked:
            return human
        settings, run_seed = self._config.responses, self._config.seed
        return await answer_other(engine, chat, prompt, human, settings, run_seed=run_seed)

    def keep(self, new: Sequence[Record]) -> None:
        """See ``Maker``."""
        responses = [record for record in new if isinstance(record, Response)]
        self.records += responses
        self._tokens += sum(response.num_tokens for response in responses)
        self.tracker.advance(len(self.records), note=rate(self._tokens, self.tracker))

    def check(self) -> None:
        """Whether there are responses enough shows when judgments are selected."""


class RankedJudgmentMaker:
    """Has ``models/SFT`` judge each response in the written form."""

    stage = "judgments"

    def __init__(self, run: Run, store: Store, iteration: int, session: Session) -> None:
        sft = run.config.sft
        assert sft is not None and sft.selection is not None
        self._run, self._session, self._selection = run, session, sft.selection
        self._template = run_template(run, "judge")
        self._settings = JurorConfig(
            form="written",
            votes=sft.selection.votes,
            temperature=sft.selection.temperature,
            top_p=sft.selection.top_p,
            top_k=sft.selection.top_k,
            max_new_tokens=sft.selection.max_new_tokens,
        )
        self._prompts: dict[int, Prompt] = {}
        self.records = store.records(Judgment, iteration)
        self._judged = {(judgment.attempt, judgment.sample) for judgment in self.records}
        self._num_parsed = sum(judgment.score is not None for judgment in self.records)
        self._total = 0
        self.tracker = Tracker(store, iteration, self.stage, self._total)

    def asks(self, new: Sequence[Record]) -> list[Ask]:
        """One request per response that is fit to be judged."""
        self._prompts |= {p.attempt: p for p in new if isinstance(p, Prompt)}
        fit = [r for r in new if isinstance(r, Response) and r.dropped is None]
        self._total += len(fit) * self._settings.votes
        return [
            partial(
                judge_response, self._session.engine, self._session.chat, self._template,
                self._prompts[response.attempt], response, self._settings,
                run_seed=self._run.config.seed,
            )
            for response in fit
            if (response.attempt, response.sample) not in self._judged
        ]  # fmt: skip

    def keep(self, new: Sequence[Record]) -> None:
        """See ``Maker``."""
        judgments = [record for record in new if isinstance(record, Judgment)]
        self.records += judgments
        self._num_parsed += sum(judgment.score is not None for judgment in judgments)
        if not self._num_parsed and len(self.records) >= _VOTES_TO_TELL:
            self.check()
        self.tracker.advance(len(self.records), self._total, f"{self._num_parsed} verdicts")

    def check(self) -> None:
        """See ``Maker``."""
        if self._num_parsed or not self.records or not self._selection.min_rows:
            return
        reasons = Counter(judgment.reason for judgment in self.records)
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise StoppedError(
            f"iteration 0: none of {len(self.records)} judgments of models/SFT has a verdict: {why}"
            "; sft.selection has nothing to select",
            f"Read some with `selfreward show {self._run.name} --iteration 0 --failed`. The model "
            "needs more written EFT rows (sft.eft) or a larger sft.selection.max_new_tokens; or "
            "judge.form=expected, which needs no text: see docs/eft.md.",
        )
