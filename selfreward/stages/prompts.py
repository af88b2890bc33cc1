"""Writing new prompts from few-shot demonstrations (arXiv 2401.10020, 2.2; 2212.10560, 2.2).

Attempts are numbered. Attempt a draws its generated demonstrations only from prompts accepted up to
attempt a - ``window``, and acceptance is decided in attempt order, so the same seed gives the same
prompts however the engine's answers arrive, with ``window`` attempts in flight at all times.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from selfreward.config import Config, PromptsConfig
from selfreward.engines.base import ChatFormat, Engine, Generation, RequestError
from selfreward.errors import StoppedError
from selfreward.inputs.columns import PromptRow
from selfreward.inputs.templates import Template
from selfreward.records import Prompt, Record
from selfreward.stages.base import Ask, Asks, Work, are, counted, first_time, seed_of
from selfreward.stages.pool import Pool, cut, why_dropped

if TYPE_CHECKING:
    from selfreward.engines.sessions import Session


class Author:
    """Writes an iteration's prompts, attempt by attempt.

    Attempt a is asked for once all up to a - ``window`` are decided, if these accepted fewer than
    ``count``, and sees only what they accepted.

    Args:
        pool: Seeds and the prompts of earlier iterations; accepted prompts are added to it.
        committed: Attempts of this iteration that an earlier launch committed, from 0 on.
    """

    def __init__(
        self,
        chat: ChatFormat,
        template: Template,
        pool: Pool,
        settings: PromptsConfig,
        *,
        iteration: int,
        run_seed: int,
        committed: Sequence[Prompt] = (),
    ) -> None:
        self._chat, self._template, self._pool, self._settings = chat, template, pool, settings
        self._iteration, self._run_seed = iteration, run_seed
        self._num_earlier = len(pool.generated)
        self._accepted = [0]
        """At i: how many of the first i attempts were accepted."""
        self._written: dict[int, Generation | RequestError] = {}
        for prompt in committed:
            self._add(prompt)
        self._next = len(committed)

    def take_attempts(self) -> list[int]:
        """Attempts that may be asked for by now; each is handed out once."""
        begin, settings = self._next, self._settings
        while (
            self._next < min(len(self._accepted) - 1 + settings.window, settings.budget)
            and self._accepted[self._num_seen(self._next)] < settings.count
        ):
            self._next += 1
        return list(range(begin, self._next))

    async def write(self, engine: Engine, attempt: int) -> None:
        """Ask for a prompt."""
        seed = prompt_seed(self._run_seed, self._iteration, attempt)
        settings = self._settings
        num_generated = self._num_earlier + self._accepted[self._num_seen(attempt)]
        demonstrations = self._pool.demonstrations(settings, seed, num_generated)
        user, started = self._template.render(demonstrations=demonstrations)
        request = self._chat.request(user, started, settings.sampling(stop=("\n",)), seed=seed)
        try:
            self._written[attempt] = (await engine.generate(request))[0]
        except RequestError as error:
            self._written[attempt] = error

    def decide(self) -> list[Prompt]:
        """Accept or drop, in attempt order, what was written up to the first gap."""
        decided = []
        while (written := self._written.pop(len(self._accepted) - 1, None)) is not None:
            prompt = self._judge(len(self._accepted) - 1, written)
            self._add(prompt)
            decided.append(prompt)
        return decided

    def _judge(self, attempt: int, written: Generation | RequestError) -> Prompt:
        if isinstance(written, RequestError):
            return Prompt(self._iteration, attempt, "", "", written.reason, written.detail)
        text = cut(written.text)
        dropped, detail = (
            ("surplus", f"{self._settings.count} prompts were already accepted")
            if self._accepted[-1] >= self._settings.count
            else why_dropped(text, written, self._chat, self._pool, self._settings)
        )
        num_tokens = len(written.token_ids)
        return Prompt(self._iteration, attempt, text, written.text, dropped, detail, num_tokens)

    def _add(self, prompt: Prompt) -> None:
        if prompt.dropped is None:
            self._pool.add(prompt.text)
        self._accepted.append(self._accepted[-1] + (prompt.dropped is None))

    def _num_seen(self, attempt: int) -> int:
        return num_seen(attempt, self._settings.window)


def prompt_seed(run_seed: int, iteration: int, attempt: int) -> int:
    """Seed of an attempt: of its demonstrations and of its request."""
    return seed_of(run_seed, "prompts", iteration, attempt)


def num_seen(attempt: int, window: int) -> int:
    """How many attempts come before the window of one, so that it sees what they accepted."""
    return max(0, attempt - window + 1)


def draw_prompts(
    rows: Sequence[PromptRow],
    chat: ChatFormat,
    pool: Pool,
    settings: PromptsConfig,
    *,
    iteration: int,
) -> list[Prompt]:
    """Take this iteration's prompts from a data set instead, in its order, none of them twice.

    A row that holds a control token or gives away what is held out is dropped; the other filters
    are for what a model wrote.
    """
    used = set(pool.generated)
    prompts: list[Prompt] = []
    accepted = 0
    for row in rows:
        if accepted == settings.count:
            break
        text = row.prompt
        if text in used:
            continue
        dropped = detail = None
        if detail := chat.control_token(text):
            dropped = "control token"
        elif detail := pool.held_out.overlapping(text):
            dropped = "held out"
        accepted += dropped is None
        at, why = len(prompts), detail or ""
        prompts.append(Prompt(iteration, at, text, text, dropped, why, columns=row.columns))
    return prompts


def prompts_work(
    session: "Session",
    committed: Sequence[Prompt],
    source: Template | Sequence[PromptRow],
    pool: Pool,
    config: Config,
    iteration: int,
) -> Work:
    """Writing an iteration's prompts, or drawing them from a data set.

    Args:
        committed: Attempts of the iteration, from 0 on.
        source: How to ask for a prompt; or rows to draw them from.
        pool: Seeds and the prompts of earlier iterations.
    """
    settings = config.prompts
    if isinstance(source, Template):
        author = Author(
            session.chat, source, pool, settings,
            iteration=iteration, run_seed=config.seed, committed=committed,
        )  # fmt: skip
        asks: Asks = partial(_attempts, author, session.engine)
    else:
        drawn = draw_prompts(source, session.chat, pool, settings, iteration=iteration)
        left = drawn[len(committed) :]
        asks = first_time([partial(_hand_over, left)] if left else [])

    def check() -> None:
        made = work.made
        if made.kept < settings.count:
            raise StoppedError(
                f"iteration {iteration}: {made.kept} of {settings.count} prompts "
                f"after {made.total} attempts; dropped: {counted(made.dropped) or 'none'}",
                _remedy(settings, made.dropped),
            )

    def note(rate: str) -> str:
        return ", ".join(filter(None, (f"{work.made.total} attempts", rate)))

    work = Work(
        "prompts", committed, settings.count, asks, are(Prompt), check, attrgetter("kept"), note
    )
    return work


def _remedy(settings: PromptsConfig, reasons: Counter[str]) -> str:
    """What gives more prompts, by what most of them were dropped for."""
    found = reasons.most_common(1)
    reason = found[0][0] if found else ""
    if settings.dataset is not None:
        return "Start a run with more rows in prompts.dataset, or a smaller prompts.count."
    known = {
        "truncated": f"More prompts.max_new_tokens than {settings.max_new_tokens}",
        "keyword": "Other prompts.keywords, or none (prompts.keywords=[])",
        "too short": f"A smaller prompts.min_words than {settings.min_words}",
        "too long": f"A larger prompts.max_words than {settings.max_words}",
        "held out": "Evaluation data of other tasks, or prompts.overlap_words=null,",
        "similar": "A higher prompts.temperature or more prompts.seeds",
    }
    better = known.get(reason, "Another prompts.author, prompts.template or a prompts.dataset")
    return (
        f"{better} keeps more, in a new run; so does a smaller prompts.count. To go on trying with "
        "this one, resume with a larger prompts.max_attempts."
    )


def _attempts(author: Author, engine: Engine, new: Sequence[Record]) -> list[Ask]:
    """Further attempts that decided ones make room for."""

    async def write(attempt: int) -> list[Prompt]:
        await author.write(engine, attempt)
        return author.decide()  # at once, so that decisions are committed in attempt order

    return [partial(write, attempt) for attempt in author.take_attempts()]


async def _hand_over(drawn: list[Prompt]) -> list[Prompt]:
    return drawn
