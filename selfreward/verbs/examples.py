"""The answers worth looking at first: best, worst and most disputed, cut to what a page can hold.

scored responses of an iteration -> a few answers, each with its prompt, votes and pair
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfreward.measures.votes import Scored, scored_responses
from selfreward.records import judge_key
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.text import spelled
from selfreward.verbs.origin import origin_text
from selfreward.verbs.show import ShownPrompt, ShownResponse, ShownVote, prompt_of

EACH = 3
"""Answers of each kind."""
_PROMPT, _ANSWER, _VERDICT, _REASON = 800, 1600, 700, 300
"""Characters that are shown, control characters spelled out."""
_VOTES = 6
"""Votes that are shown of an answer."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The beginning of a text."""

    text: str
    """As it may be shown."""
    more: int
    """Characters left out, as they were written."""


@dataclass(frozen=True, slots=True)
class ExampleVote:
    """What a judge said."""

    who: str
    verdict: str
    text: Cut


@dataclass(frozen=True, slots=True)
class Example:
    """An answer, and what was said of it."""

    iteration: int
    attempt: int
    sample: int
    prompt: Cut
    answer: Cut
    facts: str
    votes: tuple[ExampleVote, ...]
    more_votes: int


@dataclass(frozen=True, slots=True)
class Examples:
    """Answers of one kind, all of one iteration."""

    title: str
    iteration: int
    answers: tuple[Example, ...]


def examples_of(run: Run, store: Store, iteration: int, attempts: int) -> list[Examples]:
    """Best, worst and most disputed answers of an iteration; a prompt counts once in each.

    Args:
        attempts: Look at the first so many.

    Returns:
        The kinds of which there are any.
    """
    scored = scored_responses(store, iteration, attempts)
    disputed = [row for row in scored if row.spread > 0]
    chosen = {
        "Best answers": _first(scored, lambda row: -row.score),
        "Worst answers": _first(scored, lambda row: row.score),
        "Most disputed answers": _first(disputed, lambda row: -row.spread),
    }
    return [
        Examples(title, iteration, tuple(_example(run, iteration, row) for row in rows))
        for title, rows in chosen.items()
        if rows
    ]


def cut(text: str, most: int) -> Cut:
    """The first characters of a text, at most so many as they are shown."""
    shown = spelled(text[:most])
    if len(shown) > most:  # what is spelled out is longer
        kept, length = 0, 0
        for character in text[:most]:
            length += len(spelled(character))
            if length > most:
                break
            kept += 1
        return Cut(spelled(text[:kept]), len(text) - kept)
    return Cut(shown, max(0, len(text) - most))


def _first(rows: Sequence[Scored], key: Callable[[Scored], float]) -> list[Scored]:
    """The first row of each prompt, of the first prompts."""
    best: dict[int, tuple[float, int, Scored]] = {}
    for row in rows:
        place = (key(row), row.sample, row)
        if row.attempt not in best or place[:2] < best[row.attempt][:2]:
            best[row.attempt] = place
    order = heapq.nsmallest(EACH, best.items(), key=lambda item: (item[1][0], item[0]))
    return [row for _, (_, _, row) in order]


def _example(run: Run, iteration: int, row: Scored) -> Example:
    shown = prompt_of(run, iteration, row.attempt)
    answer = next(response for response in shown.responses if response.sample == row.sample)
    votes = answer.votes[:_VOTES]
    return Example(
        iteration=iteration,
        attempt=row.attempt,
        sample=row.sample,
        prompt=cut(shown.prompt.text, _PROMPT),
        answer=cut(answer.text, _ANSWER),
        facts=_facts(shown, answer, row),
        votes=tuple(map(_vote, votes)),
        more_votes=len(answer.votes) - len(votes),
    )


def _facts(shown: ShownPrompt, answer: ShownResponse, row: Scored) -> str:
    facts = [f"score {row.score:.3g}"]
    if row.spread:
        facts.append(f"votes {row.spread:.3g} points apart")
    facts.append(f"{answer.num_tokens:,} tokens, {len(answer.text):,} characters")
    if shown.origin is not None:
        facts.append(cut(origin_text(shown.origin), _REASON).text)
    facts += ["cut off"] * answer.truncated + [*answer.roles]
    if answer.not_paired:
        facts.append(f"not paired: {cut(answer.not_paired, _REASON).text}")
    elif shown.no_pair:
        facts.append(f"no pair: {cut(shown.no_pair, _REASON).text}")
    return "; ".join(facts)


def _vote(vote: ShownVote) -> ExampleVote:
    found = f"{vote.score:.3g}" if vote.score is not None else f"no verdict ({vote.reason})"
    if vote.probabilities is not None:
        each = ", ".join(f"{score}: {p:.3f}" for score, p in enumerate(vote.probabilities))
        found += f"; probabilities {each}"
    who = f"{judge_key(vote.juror)}, vote {vote.vote}" if vote.juror else f"vote {vote.vote}"
    return ExampleVote(who, cut(found, _REASON).text, cut(vote.raw, _VERDICT))
