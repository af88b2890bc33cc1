"""One prompt as the run saw it: its responses, every vote with the judge's own words, its pair."""

import shutil
from dataclasses import asdict
from statistics import fmean
from typing import Any, Literal

from selfreward.errors import ConfigError, NotFoundError
from selfreward.records import Judgment, PreferencePair, Prompt, Response
from selfreward.reporting.console import bold, dim
from selfreward.reporting.layout import indented
from selfreward.run import Run
from selfreward.store import Store

Order = Literal["first", "best", "worst", "disagree", "failed"]

_SELECT: dict[Order, str] = {
    # An index serves each iteration; scores are means over the votes of a response.
    "first": "SELECT attempt FROM responses WHERE iteration = ? GROUP BY attempt ORDER BY attempt",
    "best": "SELECT attempt FROM scored GROUP BY attempt ORDER BY max(score) DESC, attempt",
    "worst": "SELECT attempt FROM scored GROUP BY attempt ORDER BY min(score), attempt",
    "disagree": "SELECT attempt FROM scored WHERE spread > 0 GROUP BY attempt"
    " ORDER BY max(spread) DESC, attempt",
    "failed": "SELECT attempt FROM judgments WHERE iteration = ? AND score IS NULL GROUP BY attempt"
    " ORDER BY attempt",
}
_SCORED = """WITH scored AS (SELECT attempt, avg(score) AS score, max(score) - min(score) AS spread
FROM judgments WHERE iteration = ? GROUP BY attempt, sample HAVING count(score) > 0) """


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
        query = (_SCORED if "scored" in _SELECT[order] else "") + _SELECT[order]
        attempts = [row[0] for row in store.query(query, (iteration,))]
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


def prompt_of(run: Run, iteration: int | None, attempt: int) -> dict[str, Any]:
    """All that the run holds on one prompt.

    Raises:
        NotFoundError: There is no such attempt; the message says which there are.
    """
    with run.store() as store:
        iteration = _iteration(run, store, iteration)
        prompts = store.records(Prompt, iteration, attempt)
        if not prompts:
            query = "SELECT count(*) FROM prompts WHERE iteration = ?"
            attempts = next(store.query(query, (iteration,)))[0]
            raise NotFoundError(
                f"run {run.name}, iteration {iteration}: no attempt {attempt}",
                f"Attempts go from 0 to {attempts - 1}.",
            )
        pairs = store.records(PreferencePair, iteration, attempt)
        drops = _drops(store, iteration, attempt)
        responses = _responses(
            store.records(Response, iteration, attempt), store.records(Judgment, iteration, attempt)
        )
        built = store.finished(iteration, "pairs") is not None
    for response in responses:
        sample = response["sample"]
        roles = {"chosen": any(pair.chosen == sample for pair in pairs),
                 "rejected": any(pair.rejected == sample for pair in pairs)}  # fmt: skip
        response["roles"] = [role for role, has in roles.items() if has]
        response["not_paired"] = drops.get(f"{attempt}/{sample}")
    return {
        "run": run.name,
        "iteration": iteration,
        "attempt": attempt,
        "prompt": asdict(prompts[0]),
        "responses": responses,
        "pairs": [asdict(pair) | {"margin": pair.margin} for pair in pairs],
        "no_pair": None if pairs else _why(prompts[0], drops.get(str(attempt)), built),
    }


def prompt_text(shown: dict[str, Any]) -> str:
    """What ``selfreward show`` prints for one prompt."""
    prompt = shown["prompt"]
    lines = [bold(f"iteration {shown['iteration']}, prompt {shown['attempt']}")]
    if prompt["dropped"] is None:
        lines.append(_wrapped(prompt["text"], 2))
    else:
        detail = f" ({prompt['detail']})" if prompt["detail"] else ""
        lines += [f"  dropped: {prompt['dropped']}{detail}; what was written:"]
        lines.append(_wrapped(prompt["raw"], 4))
    for response in shown["responses"]:
        lines += ["", *_response_lines(response)]
    lines.append("")
    lines += [
        bold("pair: ") + f"response {pair['chosen']} ({pair['chosen_score']:.3g}) over "
        f"response {pair['rejected']} ({pair['rejected_score']:.3g}), "
        f"margin {pair['margin']:.3g} points"
        for pair in shown["pairs"]
    ]
    if not shown["pairs"]:
        lines.append(bold("no pair: ") + shown["no_pair"])
    return "\n".join(lines)


def _response_lines(response: dict[str, Any]) -> list[str]:
    score = "no score" if response["score"] is None else f"score {response['score']:.3g}"
    facts = [f"{response['num_tokens']} tokens", f"{len(response['text'])} characters"]
    if response["finish_reason"] == "length":
        facts.append("truncated")
    if response["dropped"]:
        facts.append(f"not judged: {response['dropped']}")
    if response["not_paired"]:
        facts.append(f"not paired: {response['not_paired']}")
    role = f"  {', '.join(response['roles'])}" if response["roles"] else ""
    head = bold(f"response {response['sample']}: {score}{role}") + dim("  " + ", ".join(facts))
    lines = [head]
    if response["thinking"]:
        lines += [dim("  thinking:"), _wrapped(response["thinking"], 4)]
    lines.append(_wrapped(response["text"], 2))
    for vote in response["votes"]:
        lines += _vote_lines(vote)
    return lines


def _vote_lines(vote: dict[str, Any]) -> list[str]:
    verdict = f"no verdict ({vote['reason']})" if vote["score"] is None else f"{vote['score']:.3g}"
    if vote["probabilities"] is None:
        return [f"  vote {vote['vote']}: {verdict}", _wrapped(vote["raw"], 6)]
    each = "  ".join(f"{score}: {p:.3f}" for score, p in enumerate(vote["probabilities"]))
    return [f"  expected {verdict}", f"      {each}  (sum {sum(vote['probabilities']):.3f})"]


def _responses(responses: list[Response], judgments: list[Judgment]) -> list[dict[str, Any]]:
    rows = []
    for response in responses:
        votes = [judgment for judgment in judgments if judgment.sample == response.sample]
        scores = [vote.score for vote in votes if vote.score is not None]
        score = fmean(scores) if scores else None
        rows.append(asdict(response) | {"score": score, "votes": [asdict(vote) for vote in votes]})
    return rows


def _drops(store: Store, iteration: int, attempt: int) -> dict[str, str]:
    """Why the prompt (``attempt``) or one of its responses (``attempt/sample``) was left out."""
    query = (
        "SELECT item, reason, detail FROM drops WHERE iteration = ? AND stage = 'pairs'"
        " AND (item = ? OR item LIKE ?)"
    )
    rows = store.query(query, (iteration, str(attempt), f"{attempt}/%"))
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
    query = "SELECT max(vote) FROM judgments WHERE iteration = ?"
    return bool(next(store.query(query, (iteration,)))[0])


def _wrapped(text: str, indent: int) -> str:
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    return indented(text, " " * indent, width)
