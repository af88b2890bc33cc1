"""Writing new prompts from few-shot demonstrations (arXiv 2401.10020, 2.2; 2212.10560, 2.2).

Attempts are numbered. Attempt a draws its generated demonstrations only from prompts accepted up to
attempt a - ``window``, and acceptance is decided in attempt order, so the same seed gives the same
prompts however the engine's answers arrive, with ``window`` attempts in flight at all times.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING

from selfreward.config import Config, PromptsConfig
from selfreward.engines.base import ChatFormat, Engine, Generation, Request, RequestError
from selfreward.errors import StoppedError
from selfreward.inputs.columns import PromptRow
from selfreward.inputs.conversations import LEFT_OUT, messages_of, requests_of
from selfreward.inputs.templates import Template, TooLongError
from selfreward.records import Prompt, Record
from selfreward.stages.base import Ask, Asks, Work, are, counted, first_time, seed_of
from selfreward.stages.evolve import Rewrite, Rewriter, dump_columns
from selfreward.stages.pool import Pool, cut, cut_lines, shown_text, stops, why_dropped

if TYPE_CHECKING:
    from selfreward.engines.sessions import Session


@dataclass(frozen=True, slots=True)
class Origin:
    """What an attempt is made from beside its demonstrations."""

    topic: str | None = None
    rewrite: Rewrite | None = None
    """What it rewrites, if it is not written anew."""

    @property
    def columns(self) -> str | None:
        """What the record keeps of it, as JSON: ``topic``, or ``operation`` and ``parent``."""
        if self.rewrite is not None:
            return dump_columns(self.rewrite.columns)
        return dump_columns({"topic": self.topic} if self.topic is not None else {})


class Author:
    """Writes an iteration's prompts, attempt by attempt.

    Attempt a is asked for once all up to a - ``window`` are decided, if these accepted fewer than
    ``count``, and sees only what they accepted. They also decide whether it writes anew or
    rewrites, so that an attempt is the same whenever it is made.

    Args:
        pool: Seeds and the prompts of earlier iterations; accepted prompts are added to it.
        committed: Attempts of this iteration that an earlier launch committed, from 0 on.
        topics: One of which each attempt is given that writes anew, if there are any.
        num_topics_given: How many attempts of earlier iterations were given one.
        rewriter: Who says what is rewritten; None where nothing is.
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
        topics: Sequence[str] = (),
        num_topics_given: int = 0,
        rewriter: Rewriter | None = None,
    ) -> None:
        self._chat, self._template, self._pool, self._settings = chat, template, pool, settings
        self._iteration, self._run_seed = iteration, run_seed
        self._topics, self._num_topics_given, self._rewriter = topics, num_topics_given, rewriter
        self._num_earlier = len(pool.generated)
        self._accepted = [0]
        """At i: how many of the first i attempts were accepted."""
        self._evolved = [0]
        """The same of rewrites."""
        self._origins: list[Origin] = []
        """Of the attempts that were handed out."""
        self._num_rewrites = 0
        """How many of these rewrite."""
        self._written: dict[int, Generation | RequestError] = {}
        for prompt in committed:
            self._origins.append(self._origin(len(self._origins)))
            self._add(prompt)

    def take_attempts(self) -> list[int]:
        """Attempts that may be asked for by now; each is handed out once."""
        begin, settings = len(self._origins), self._settings
        while (attempt := len(self._origins)) < min(
            len(self._accepted) - 1 + settings.window, settings.budget
        ) and self._accepted[self._num_seen(attempt)] < settings.count:
            self._origins.append(self._origin(attempt))
        return list(range(begin, len(self._origins)))

    async def write(self, engine: Engine, attempt: int) -> None:
        """Ask for a prompt."""
        try:
            self._written[attempt] = (await engine.generate(self._request(attempt)))[0]
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

    def _origin(self, attempt: int) -> Origin:
        """That of the next attempt; rewrites are spread evenly until there are enough of them."""
        settings = self._settings
        if self._rewriter is not None and settings.evolve is not None:
            share = settings.evolve.share
            is_due = int((attempt + 1) * share) > int(attempt * share)
            if is_due and self._evolved[self._num_seen(attempt)] < settings.most_evolved:
                self._num_rewrites += 1
                return Origin(rewrite=self._rewriter.rewrite(self._num_rewrites - 1))
        if not self._topics:
            return Origin()
        number = self._num_topics_given + attempt - self._num_rewrites
        return Origin(topic=topic_of(self._topics, self._run_seed, number))

    def _request(self, attempt: int) -> Request:
        """How the attempt is asked for.

        Raises:
            RequestError: What it is made from is too long, or holds a control token.
        """
        settings, origin = self._settings, self._origins[attempt]
        seed = prompt_seed(self._run_seed, self._iteration, attempt)
        given = origin.rewrite.parent.text if origin.rewrite is not None else origin.topic
        if token := self._chat.control_token(given or ""):
            raise RequestError("control token", f"{token} in what it is made from")
        try:
            if origin.rewrite is not None and self._rewriter is not None:
                shown = shown_text(origin.rewrite.parent.text, multiline=settings.multiline)
                user, started = self._rewriter.render(origin.rewrite, shown)
                stop = stops(settings)
            else:
                num_generated = self._num_earlier + self._accepted[self._num_seen(attempt)]
                demonstrations = self._pool.demonstrations(settings, seed, num_generated)
                topic = {} if origin.topic is None else {"topic": origin.topic}
                user, started = self._template.render(demonstrations=demonstrations, **topic)
                stop = stops(settings, len(demonstrations) + 2)
        except TooLongError as error:
            raise RequestError("too long", error.message) from None
        return self._chat.request(user, started, settings.sampling(stop), seed=seed)

    def _judge(self, attempt: int, written: Generation | RequestError) -> Prompt:
        origin = self._origins[attempt]
        if isinstance(written, RequestError):
            why = written.reason, written.detail
            return Prompt(self._iteration, attempt, "", "", *why, columns=origin.columns)
        text = self._cut(written.text, origin)
        dropped, detail = self._why_dropped(text, written, origin)
        num_tokens = len(written.token_ids)
        return Prompt(
            self._iteration, attempt, text, written.text, dropped, detail, num_tokens,
            origin.columns,
        )  # fmt: skip

    def _cut(self, text: str, origin: Origin) -> str:
        if not self._settings.multiline:
            return cut(text)
        return cut_lines(text, None if origin.rewrite is not None else self._settings.shots + 2)

    def _why_dropped(
        self, text: str, written: Generation, origin: Origin
    ) -> tuple[str | None, str]:
        settings = self._settings
        if self._accepted[-1] >= settings.count:
            return "surplus", f"{settings.count} prompts were already accepted"
        if origin.rewrite is not None and self._rewriter is not None:
            if self._evolved[-1] >= settings.most_evolved:
                return "surplus", f"{settings.most_evolved} rewrites were already accepted"
            failed, detail = self._rewriter.why_failed(text, origin.rewrite)
            if failed and written.finish_reason != "length":
                return failed, detail
        return why_dropped(text, written, self._chat, self._pool, settings)

    def _add(self, prompt: Prompt) -> None:
        accepted = prompt.dropped is None
        if accepted:
            self._pool.add(prompt.text)
        evolved = accepted and self._origins[prompt.attempt].rewrite is not None
        self._accepted.append(self._accepted[-1] + accepted)
        self._evolved.append(self._evolved[-1] + evolved)

    def _num_seen(self, attempt: int) -> int:
        return num_seen(attempt, self._settings.window)


def topic_of(topics: Sequence[str], run_seed: int, number: int) -> str:
    """The topic of the attempt that is the ``number``-th of a run to get one, from 0.

    All come once, in an order drawn by the run's seed, before they come again in another one.
    """
    again, at = divmod(number, len(topics))
    return topics[_drawn(seed_of(run_seed, "topics", again), len(topics))[at]]


@lru_cache(maxsize=2)
def _drawn(seed: int, count: int) -> list[int]:
    return random.Random(seed).sample(range(count), count)


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

    A row that holds a control token, gives away what is held out, or is a conversation of which
    the chat template leaves a turn out is dropped; the other filters are for what a model wrote.
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
        elif detail := chat.left_out(messages_of(text, row.columns)):
            dropped = LEFT_OUT
        elif detail := pool.held_out.overlapping(requests_of(text, row.columns)):
            dropped = "held out"
        accepted += dropped is None
        at, why = len(prompts), detail or ""
        prompts.append(Prompt(iteration, at, text, text, dropped, why, columns=row.columns))
    return prompts


@dataclass(frozen=True, slots=True)
class Writing:
    """What an iteration's prompts are written with; see ``Author``."""

    template: Template
    topics: Sequence[str] = ()
    num_topics_given: int = 0
    rewriter: Rewriter | None = None


def prompts_work(
    session: "Session",
    committed: Sequence[Prompt],
    source: Writing | Sequence[PromptRow],
    pool: Pool,
    config: Config,
    iteration: int,
) -> Work:
    """Writing an iteration's prompts, or drawing them from a data set.

    Args:
        committed: Attempts of the iteration, from 0 on.
        source: What they are written with; or rows to draw them from.
        pool: Seeds and the prompts of earlier iterations.
    """
    settings = config.prompts
    if isinstance(source, Writing):
        author = Author(
            session.chat, source.template, pool, settings,
            iteration=iteration, run_seed=config.seed, committed=committed,
            topics=source.topics, num_topics_given=source.num_topics_given,
            rewriter=source.rewriter,
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
        **dict.fromkeys(
            ("same as the parent", "refused", "copies the template"),
            "Another prompts.evolve.template, or a smaller prompts.evolve.share,",
        ),
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
