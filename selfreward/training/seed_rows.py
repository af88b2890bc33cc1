"""Rows of the seed step, as token ids: IFT rows, EFT rows and selected judgments.

rows in = rows out + drops
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from selfreward.config import SeedSource
from selfreward.engines.chat import Chat
from selfreward.errors import StoppedError
from selfreward.inputs import seeds
from selfreward.inputs.conversations import LEFT_OUT, messages_of
from selfreward.inputs.judge_templates import run_template
from selfreward.inputs.templates import Template
from selfreward.records import Drop, Judgment, Prompt, Response, kept
from selfreward.stages.criteria import GENERAL
from selfreward.stages.verdict import points
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.training.base import SftRow

UNJUSTIFIED = "no justification"
"""Reason of a drop that a run of an earlier version may have for all rows of ``sft.eft``; today
such a run is refused before it is made."""


def sft_rows(run: Run, store: Store, stage: str, chat: Chat) -> tuple[list[SftRow], list[Drop]]:
    """IFT rows, then EFT rows in the form that the judge will be asked in, then selected ones.

    Args:
        stage: Of iteration 0: ``sft``, before judgments are selected, or ``train``.

    Raises:
        StoppedError: No row is left, or none of ``sft.ift`` or ``sft.eft``.
    """
    sft = run.config.sft
    assert sft is not None
    made = _SeedRows(chat, stage, sft.max_length)
    if sft.ift is not None:
        made.add_ift(seeds.read_ift(copied(run, "ift")))
    if sft.eft is not None:
        template, writes = run_template(run, "judge"), run.config.judge.traits.writes
        made.add_eft(seeds.read_eft(copied(run, "eft")), template, writes=writes)
    if stage == "train":
        made.add_selected(_selected(run, store))
    if not made.rows:
        raise StoppedError("the seed step has no row to train on", first_of(made.drops))
    for source in ("ift", "eft"):
        lost = [
            drop
            for drop in made.drops
            if drop.item.startswith(f"{source}:") and drop.reason != UNJUSTIFIED
        ]
        if lost and not made.num_kept[source]:
            raise StoppedError(f"no row of sft.{source} can be trained on", first_of(lost))
    return made.rows, made.drops


@dataclass
class _SeedRows:
    """Rows as they come, and what is left out.

    What spells a control token of the chat format, which would be trained as the end of its turn,
    is dropped.
    """

    chat: Chat
    stage: str
    max_length: int
    """Tokens of a row, at most; a longer one is dropped."""
    rows: list[SftRow] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    num_kept: Counter[str] = field(default_factory=Counter)
    """Rows by source: ``ift``, ``eft`` or ``selected``."""

    def add_ift(self, examples: Iterable[seeds.IftExample]) -> None:
        """Answers to requests; of a conversation the last answer alone is trained.

        One whose answer would be trained without a turn that it follows, as the chat template
        leaves that out, is dropped.
        """
        for i, example in enumerate(examples):
            if not self._is_plain(f"ift:{i}", example.prompt, example.response):
                continue
            asked = messages_of(example.prompt, example.columns)
            if (turn := self.chat.left_out(asked)) is not None:
                self._drop(f"ift:{i}", LEFT_OUT, turn)
            else:
                self._keep(f"ift:{i}", *self.chat.continuation(asked, "", example.response))

    def add_eft(
        self, examples: Iterable[seeds.EftExample], template: Template, *, writes: bool
    ) -> None:
        """Judgments in the judge's form.

        ``written`` and ``written_expected``: justification and verdict line. ``expected``: the
        score token alone, decimals rounded to the nearest score, halves up. ``criteria``: the same,
        by the criterion ``criteria.GENERAL``, as seed data has one score for the whole answer.
        """
        for i, eft in enumerate(examples):
            if not self._is_plain(f"eft:{i}", eft.prompt, eft.response, eft.justification or ""):
                continue
            if eft.teaches(writes=writes):
                self._keep(f"eft:{i}", *_judged(eft, template, self.chat, writes=writes))
            else:
                self._drop(f"eft:{i}", UNJUSTIFIED)

    def add_selected(self, judgments: Iterable[tuple[Judgment, str, str]]) -> None:
        """The judge's own texts, whole; each with what it was asked and its turn's start."""
        for judgment, user, started in judgments:
            name = f"selected:{judgment.item}"
            if self._is_plain(name, judgment.raw):
                ids = self.chat.continuation(user, started, judgment.raw, is_sampled=True)
                self._keep(name, *ids)

    def _keep(
        self, name: str, prompt_ids: tuple[int, ...], completion_ids: tuple[int, ...]
    ) -> None:
        length = len(prompt_ids) + len(completion_ids)
        if length > self.max_length:
            self._drop(name, "too long", f"{length} tokens > sft.max_length {self.max_length}")
        else:
            source = name.partition(":")[0]
            self.rows.append(SftRow(prompt_ids, completion_ids, is_eft=source != "ift"))
            self.num_kept[source] += 1

    def _is_plain(self, name: str, *texts: str) -> bool:
        token = next(filter(None, map(self.chat.control_token, texts)), None)
        if token is not None:
            self._drop(name, "control token", token)
        return token is None

    def _drop(self, name: str, reason: str, detail: str = "") -> None:
        self.drops.append(Drop(0, self.stage, name, reason, detail))


def _judged(
    eft: seeds.EftExample, template: Template, chat: Chat, *, writes: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of what a judge is asked about an EFT row, and of what it is to answer."""
    asked = template.asked(eft.prompt, eft.columns)
    user, started = template.render(**asked, response=eft.response, criterion=GENERAL)
    if not writes:
        return chat.score_target(user, points(eft.score))
    return chat.continuation(user, started, f"{eft.justification}\nScore: {eft.score:g}")


def _selected(run: Run, store: Store) -> Iterator[tuple[Judgment, str, str]]:
    """The judgments that were selected, each with what the judge was asked and its turn's start."""
    judgments = kept(store.records(Judgment, 0), store.records(Drop, 0))
    if not judgments:
        return
    template = run_template(run, "judge")
    asked = {p.attempt: template.asked(p.text, p.columns) for p in store.records(Prompt, 0)}
    texts = {(r.attempt, r.sample): r.text for r in store.records(Response, 0)}
    for judgment in judgments:
        response = texts[judgment.attempt, judgment.sample]
        user, started = template.render(**asked[judgment.attempt], response=response)
        yield judgment, user, started


def copied(run: Run, kind: str) -> SeedSource:
    """The run's own copy of seed data, see ``Run.seed_file``."""
    return SeedSource(path=str(run.seed_file(kind).resolve()))


def first_of(drops: list[Drop]) -> str:
    """The first few of what was left out, and why."""
    return "; ".join(f"{drop.item}: {drop.reason} ({drop.detail})" for drop in drops[:3])
