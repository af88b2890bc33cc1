"""One prompt as the run saw it: its responses, every vote with the judge's own words, its pair."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from selfreward.errors import ConfigError, NotFoundError
from selfreward.measures.votes import Scored, scored_responses, scores_of
from selfreward.records import (
    FORMS,
    JUDGE_PAIRS,
    Comparison,
    Criterion,
    JudgePair,
    Judgment,
    PreferencePair,
    Prompt,
    Response,
    judge_key,
)
from selfreward.stages.preference import preference
from selfreward.storage.changes import Branch, branch_of
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.verbs.console import bold, dim
from selfreward.verbs.layout import indented
from selfreward.verbs.origin import Origin, origin_of, origin_text

Order = Literal["first", "best", "worst", "disagree", "failed"]

_SELECT: dict[Order, str] = {  # an index serves each iteration
    "first": "SELECT attempt FROM responses WHERE iteration = ? GROUP BY attempt ORDER BY attempt",
    "failed": "SELECT attempt FROM judgments WHERE iteration = ? AND score IS NULL GROUP BY attempt"
    " ORDER BY attempt",
}
_FIRST: dict[Order, Callable[[Scored], float]] = {
    "best": lambda response: -response.score,
    "worst": lambda response: response.score,
    "disagree": lambda response: -response.spread,
}
"""By which response prompts are sorted, and how; the smallest comes first."""


@dataclass(frozen=True, slots=True)
class ShownVote(Judgment):
    """A judgment, and in iteration 0 what became of it."""

    selection: str | None = None
    """``kept`` as an EFT row, or why not; None before the selection, and in other iterations."""


@dataclass(frozen=True, slots=True)
class ShownResponse(Response):
    """A response with all that is said of it."""

    score: float | None = None
    """By which pairs are made, 0 to 5; None without a verdict."""
    votes: tuple[ShownVote, ...] = ()
    roles: tuple[str, ...] = ()
    """In the pairs of the prompt: ``chosen``, ``rejected``."""
    not_paired: str | None = None
    """Why it took no part in pairs; None where it did, or none are built."""


@dataclass(frozen=True, slots=True)
class ShownPair:
    """A preference pair; see ``PreferencePair``."""

    iteration: int
    attempt: int
    chosen: int
    rejected: int
    chosen_score: float
    rejected_score: float
    margin: float
    """In points."""


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """All that a run holds on one prompt."""

    run: str
    iteration: int
    attempt: int
    prompt: Prompt
    criteria: tuple[Criterion, ...]
    responses: tuple[ShownResponse, ...]
    comparisons: tuple[Comparison, ...]
    pairs: tuple[ShownPair, ...]
    no_pair: str | None
    """Why there is none; None where there is."""
    branch: Branch | None
    """From which run it was copied; None if this run made it."""
    judge_pairs: tuple[JudgePair, ...] = ()
    no_judge_pair: str | None = None
    """Why judgments gave no pair; None where they did, or are not judged."""
    origin: Origin | None = None
    """What it was made from; None where that is not known, and of prompts that people wrote."""


def select(run: Run, iteration: int | None, order: Order) -> tuple[int, list[int]]:
    """Choose prompts of an iteration.

    ``best`` and ``worst`` go by a prompt's best and worst response, ``disagree`` by the widest
    spread of votes; ``failed`` are those with a judgment without verdict. Iteration None is the
    last one with responses.

    Returns:
        The iteration and the attempts in that order.

    Raises:
        NotFoundError: The run or the iteration has no responses, or no prompt fits.
        ConfigError: ``disagree`` where there is only one vote per response.
    """
    with run.store() as store:
        iteration = _iteration(run, store, iteration)
        if order in _SELECT:
            attempts = [row[0] for row in store.query(_SELECT[order], (iteration,))]
        else:
            attempts = _by_response(store, iteration, order)
        if not attempts and order == "disagree" and not _has_votes(store, iteration):
            raise ConfigError(
                f"iteration {iteration} has one vote per response, so none disagree",
                "Try --worst, or judge.form=written with judge.votes of 2 or more.",
            )
    if not attempts:
        what = "judgments without a verdict" if order == "failed" else "scored responses"
        what = "votes that differ" if order == "disagree" else what
        raise NotFoundError(f"run {run.name}, iteration {iteration}: no {what}")
    return iteration, attempts


def _by_response(store: Store, iteration: int, order: Order) -> list[int]:
    first: dict[int, float] = {}
    for response in scored_responses(store, iteration):
        if order != "disagree" or response.spread > 0:
            value = _FIRST[order](response)
            first[response.attempt] = min(first.get(response.attempt, value), value)
    return sorted(first, key=lambda attempt: (first[attempt], attempt))


MOST_ATTEMPTS = 2**31
"""Far above what any run has; SQLite knows no number of 64 bits and more."""


def prompt_of(run: Run, iteration: int | None, attempt: int) -> ShownPrompt:
    """All that the run holds on one prompt.

    Raises:
        NotFoundError: There is no such attempt; the message says which there are.
    """
    with run.store() as store:
        iteration = _iteration(run, store, iteration)
        prompts = store.records(Prompt, iteration, min(attempt, MOST_ATTEMPTS))
        if not prompts or attempt > MOST_ATTEMPTS:
            query = "SELECT count(*) FROM prompts WHERE iteration = ?"
            attempts = next(store.query(query, (iteration,)))[0]
            raise NotFoundError(
                f"run {run.name}, iteration {iteration}: no attempt {attempt}",
                f"Attempts go from 0 to {attempts - 1}.",
            )
        pairs = store.records(PreferencePair, iteration, attempt)
        criteria = store.records(Criterion, iteration, attempt)
        comparisons = store.records(Comparison, iteration, attempt)
        drops = _drops(store, iteration, attempt)
        judge_pairs = store.records(JudgePair, iteration, attempt)
        unpaired = _drops(store, iteration, attempt, JUDGE_PAIRS).get(str(attempt))
        made = store.records(Response, iteration, attempt)
        judgments = store.records(Judgment, iteration, attempt)
        scores = scores_of(store, made, judgments)
        built = store.finished(iteration, "pairs" if iteration else "selection") is not None
        branch = branch_of(store.events())
        origin = origin_of(run, store, prompts[0])
    selected = drops if built and not iteration else None
    return ShownPrompt(
        run=run.name,
        iteration=iteration,
        attempt=attempt,
        prompt=prompts[0],
        criteria=tuple(criteria),
        responses=tuple(
            ShownResponse(
                **asdict(response),
                score=scores.get((attempt, response.sample)),
                votes=_votes(judgments, response.sample, selected),
                roles=_roles(pairs, response.sample),
                not_paired=drops.get(f"{attempt}/{response.sample}"),
            )
            for response in made
        ),
        comparisons=tuple(comparisons),
        pairs=tuple(ShownPair(**asdict(pair), margin=pair.margin) for pair in pairs),
        no_pair=None if pairs else _why(prompts[0], drops.get(str(attempt)), built),
        branch=branch if branch and iteration <= branch.iteration else None,
        judge_pairs=tuple(judge_pairs),
        no_judge_pair=unpaired,
        origin=origin,
    )


def prompt_text(shown: ShownPrompt) -> str:
    """What ``selfreward show`` prints for one prompt."""
    prompt = shown.prompt
    lines = [bold(f"iteration {shown.iteration}, prompt {shown.attempt}")]
    lines[0] += dim(f"  copied from run {shown.branch.run}") if shown.branch else ""
    if prompt.dropped is None:
        lines.append(_wrapped(prompt.text, 2))
        if prompt.detail:
            lines += ["  the worse response answers instead:", _wrapped(prompt.detail, 4)]
    else:
        detail = f" ({prompt.detail})" if prompt.detail else ""
        lines += [f"  dropped: {prompt.dropped}{detail}; what was written:"]
        lines.append(_wrapped(prompt.raw, 4))
    if shown.origin is not None:
        lines.append(dim(_wrapped(origin_text(shown.origin), 2)))
    for criterion in shown.criteria:
        who = f"{judge_key(criterion.juror)}, " if criterion.juror else ""
        about = f"{who}criterion {criterion.number} (weight {criterion.weight:g}): "
        lines.append(_wrapped(about + criterion.text, 2))
    for response in shown.responses:
        lines += ["", *_response_lines(response)]
    lines += ["", *_comparison_lines(shown.comparisons)]
    if shown.iteration == 0:
        return "\n".join([*lines, _selected(shown.responses)])
    lines += [
        bold("pair: ") + f"response {pair.chosen} ({pair.chosen_score:.3g}) over "
        f"response {pair.rejected} ({pair.rejected_score:.3g}), "
        f"margin {pair.margin:.3g} points"
        for pair in shown.pairs
    ]
    if shown.no_pair is not None:
        lines.append(bold("no pair: ") + shown.no_pair)
    lines += [
        bold("pair of judgments: ") + f"of response {pair.sample}, vote {pair.chosen} "
        f"(Elo {pair.chosen_elo:+.0f}) over vote {pair.rejected} ({pair.rejected_elo:+.0f})"
        for pair in shown.judge_pairs
    ]
    if shown.no_judge_pair is not None:
        lines.append(bold("no pair of judgments: ") + shown.no_judge_pair)
    return "\n".join(lines)


def _comparison_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """One per two responses that tie: which is better, or why neither."""
    lines = []
    for low, high in sorted(
        {(min(c.first, c.second), max(c.first, c.second)) for c in comparisons}
    ):
        both = [c for c in comparisons if {c.first, c.second} == {low, high}]
        winner, reason = preference(both)
        said = [("a tie" if c.winner is None else f"{c.winner}") for c in both]
        found = f"{winner} is better"
        if winner is None:
            found = f"no verdict ({reason})" if reason else f"a tie (by order: {', '.join(said)})"
        lines.append(bold(f"responses {low} and {high} compared: ") + found)
    return lines


def _selected(responses: Sequence[ShownResponse]) -> str:
    """Which votes became EFT rows, in iteration 0."""
    votes = [(response.sample, vote) for response in responses for vote in response.votes]
    if any(vote.selection is None for _, vote in votes):
        return bold("EFT rows: ") + "not selected yet"
    rows = [f"response {at} vote {v.vote}" for at, v in votes if v.selection == "kept"]
    return bold("EFT rows: ") + (", ".join(rows) or "none")


def _response_lines(response: ShownResponse) -> list[str]:
    score = "no score" if response.score is None else f"score {response.score:.3g}"
    facts = [f"{response.num_tokens} tokens", f"{len(response.text)} characters"]
    if response.author != "policy":
        facts.insert(0, f"by {response.author}")
    if response.finish_reason == "length":
        facts.append("truncated")
    if response.dropped:
        facts.append(f"not judged: {response.dropped}")
    if response.not_paired:
        facts.append(f"not paired: {response.not_paired}")
    role = f"  {', '.join(response.roles)}" if response.roles else ""
    head = bold(f"response {response.sample}: {score}{role}") + dim("  " + ", ".join(facts))
    lines = [head]
    if response.thinking:
        lines += [dim("  thinking:"), _wrapped(response.thinking, 4)]
    lines.append(_wrapped(response.text, 2))
    for vote in response.votes:
        lines += _vote_lines(vote)
    return lines


_GIVERS = {"function": "function", "reward": "reward model", "implicit": "implicit reward"}
"""What gave the value of a vote, by form."""


def _vote_lines(vote: ShownVote) -> list[str]:
    verdict = f"no verdict ({vote.reason})" if vote.score is None else f"{vote.score:.3g}"
    if vote.selection is not None and vote.score is not None:
        verdict += f"  {vote.selection}"
    who = f"{judge_key(vote.juror)}, " if vote.juror else ""
    if name := _GIVERS.get(vote.form):
        return [f"  {who}{name} gave {vote.raw}: {verdict}"]
    if vote.probabilities is None:
        return [f"  {who}vote {vote.vote}: {verdict}", _wrapped(vote.raw, 6)]
    each = "  ".join(f"{score}: {p:.3f}" for score, p in enumerate(vote.probabilities))
    form = FORMS[vote.form]
    number = f"vote {vote.vote}, " if form.writes or form.by_criterion else ""
    weight = f" (weight {vote.weight:g})" if form.by_criterion else ""
    written = [_wrapped(vote.raw, 6)] if vote.raw else []
    return [
        f"  {who}{number}expected {verdict}{weight}",
        *written,
        f"      {each}  (sum {sum(vote.probabilities):.3f})",
    ]


def _votes(
    judgments: Sequence[Judgment], sample: int, selected: Mapping[str, str] | None
) -> tuple[ShownVote, ...]:
    """The votes on a response; ``selected`` says why a vote became no EFT row."""
    votes = []
    for vote in judgments:
        if vote.sample == sample:
            place = f"{vote.attempt}/{sample}/{vote.vote}"
            selection = None if selected is None else selected.get(place, "kept")
            votes.append(ShownVote(**asdict(vote), selection=selection))
    return tuple(votes)


def _roles(pairs: Sequence[PreferencePair], sample: int) -> tuple[str, ...]:
    chosen = ("chosen",) if any(pair.chosen == sample for pair in pairs) else ()
    return (*chosen, "rejected") if any(pair.rejected == sample for pair in pairs) else chosen


def _drops(store: Store, iteration: int, attempt: int, stage: str | None = None) -> dict[str, str]:
    """Why the prompt (``attempt``), a response (``attempt/sample``) or a vote was left out."""
    query = (
        "SELECT item, reason, detail FROM drops WHERE iteration = ? AND stage = ?"
        " AND (item = ? OR item LIKE ?)"
    )
    stage = stage or ("pairs" if iteration else "selection")
    rows = store.query(query, (iteration, stage, str(attempt), f"{attempt}/%"))
    return {item: f"{reason} ({detail})" if detail else reason for item, reason, detail in rows}


def _why(prompt: Prompt, drop: str | None, built: bool) -> str:
    if prompt.dropped is not None:
        return "the prompt was dropped"
    return drop or ("left out" if built else "pairs are not built yet")


def _iteration(run: Run, store: Store, iteration: int | None) -> int:
    """The iteration asked for, or the last one with responses."""
    known = [row[0] for row in store.query("SELECT DISTINCT iteration FROM prompts ORDER BY 1")]
    if iteration is None:
        iteration = next(store.query("SELECT max(iteration) FROM responses"))[0]
    if iteration is None:
        raise NotFoundError(f"run {run.name} has no responses yet")
    if iteration not in known:
        there = ", ".join(map(str, known)) or "none yet"
        raise NotFoundError(
            f"run {run.name} has no iteration {iteration}", f"Iterations with prompts: {there}."
        )
    return iteration


def _has_votes(store: Store, iteration: int) -> bool:
    query = "SELECT max(vote + juror) FROM judgments WHERE iteration = ?"
    return bool(next(store.query(query, (iteration,)))[0])


def _wrapped(text: str, indent: int) -> str:
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    return indented(text, " " * indent, width)
