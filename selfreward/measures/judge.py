"""What the evaluation of an iteration found, in short, and how it is shown."""

from collections.abc import Callable, Sequence
from typing import Any

from selfreward.measures.health import Gate
from selfreward.storage.store import Store
from selfreward.verbs.layout import estimated

Figures = dict[str, Any]
REPORTS = ("judge", "canaries", "positions")
"""Names of all reports of an evaluation."""


def evaluated(store: Store, iteration: int) -> dict[str, Any]:
    """What its evaluation found of the model that an iteration made.

    Estimates have ``value``, ``low``, ``high`` (95% interval) and ``n``, see
    ``evaluation.bootstrap``.

    Returns:
        ``judge``, against people on held-out responses: counts of ``prompts``, ``responses``,
        ``pairs`` and ``matched`` pairs of about the same length, and estimates:
        ``parse_rate``, ``accuracy``, ``accuracy_matched``, the same of the judge that takes
        the longer response as ``longest`` and ``longest_matched``, ``gain`` of the one over
        the other, ``spearman``.
        ``drift``: estimate, points by which the mean score of those responses differs from M1's.
        ``canaries``: ``uplift``, an estimate of the points that attacks win; ``without_score``,
        how many attacks have no two scores to compare; ``worst``, the ``kind`` of the attack that
        wins most, and how much, or None.
        ``positions``, of comparisons in both orders: estimates ``consistent``, ``names_first`` and
        ``accuracy``, see ``evaluation.positions``.
    """
    positions = store.report(iteration, "positions")
    judge, canaries = store.report(iteration, "judge"), store.report(iteration, "canaries")
    return {
        "judge": judge and _judge(judge["agreement"]),
        "drift": judge and judge["drift"],
        "canaries": canaries and _canaries(canaries),
        "positions": positions and _positions(positions),
    }


def _judge(found: dict[str, Any]) -> dict[str, Any]:
    judge, longest = found["judge"], found["longest"]
    return {
        **{key: found["counts"][key] for key in ("prompts", "responses", "pairs", "matched")},
        "parse_rate": found["parse_rate"],
        "accuracy": judge["all"]["accuracy"],
        "accuracy_matched": judge["matched"]["accuracy"],
        "longest": longest["all"]["accuracy"],
        "longest_matched": longest["matched"]["accuracy"],
        "gain": found["gain"]["all"],
        "spearman": judge["all"]["spearman"],
    }


def _canaries(found: dict[str, Any]) -> dict[str, Any]:
    scored = [row for row in found["attacks"] if None not in (row["honest"], row["attacked"])]
    gains = [(row["attacked"] - row["honest"], row["kind"]) for row in scored]
    worst = max(gains, default=None)
    return {
        "uplift": found["uplift"],
        "without_score": len(found["attacks"]) - len(scored),
        "worst": worst and {"kind": worst[1], "uplift": worst[0]},
    }


def _positions(found: dict[str, Any]) -> dict[str, Any]:
    rates = {key: found[key] for key in ("consistent", "names_first")}
    return rates | {"accuracy": found["judge"]["all"]["accuracy"]}


def judge_rows(rounds: Sequence[Figures]) -> list[list[str]]:
    """Rows of the table of scores: a label, and a cell for each iteration; none if none has any."""
    rows = []
    if any(f["judge"] for f in rounds):
        rows += [_row(rounds, label, "judge", cell) for label, cell in _JUDGE_ROWS.items()]
        rows.append(_row(rounds, "drift from M1, points", "drift", points))
    if any(f["positions"] for f in rounds):
        rows += [_row(rounds, label, "positions", cell) for label, cell in _POSITIONS_ROWS.items()]
    if any(f["canaries"] for f in rounds):
        rows += [_row(rounds, label, "canaries", cell) for label, cell in _CANARY_ROWS.items()]
    return rows


def first_judge(figures: Figures) -> str:
    """A line on M1 as a judge; empty where it was not measured."""
    parts = []
    if judge := figures["judge"]:
        parts += [
            f"orders {percent(judge['accuracy'])} of {judge['pairs']} held-out pairs as people do",
            f"longer wins {percent(judge['longest'], bare=True)}",
        ]
    if canaries := figures["canaries"]:
        parts.append(f"canary uplift {points(canaries['uplift'])} points")
    return f"M1 as a judge: {', '.join(parts)}" if parts else ""


def health_lines(figures: Figures) -> list[str]:
    """A line on each gate that the iteration fails: what was found, and what to do."""
    gates = (Gate(**gate) for gate in figures["health"])
    failed = (gate for gate in gates if gate.passed is False)
    return [f"iteration {figures['iteration']}: {g.finding}. {g.remedy}" for g in failed]


def percent(estimate: Figures, bare: bool = False) -> str:
    """Such as ``61.3% [52.0, 70.1]``, or ``61.3%`` alone."""
    return estimated(estimate | {"low": None} if bare else estimate, ".1f", 100, "%")


def points(estimate: Figures) -> str:
    """Such as ``+0.12 [-0.03, +0.27]``."""
    return estimated(estimate, "+.2f")


_JUDGE_ROWS: dict[str, Callable[[Figures], str]] = {
    "new model as a judge": lambda f: f"{f['prompts']} prompts, {f['pairs']} pairs",
    "  agrees with people": lambda f: percent(f["accuracy"]),
    "  longer wins": lambda f: percent(f["longest"]),
    "  agrees, equal length": lambda f: percent(f["accuracy_matched"]),
    "  longer wins, equal length": lambda f: percent(f["longest_matched"]),
    "  Spearman": lambda f: points(f["spearman"]),
    "  parse rate": lambda f: percent(f["parse_rate"], bare=True),
}
_POSITIONS_ROWS: dict[str, Callable[[Figures], str]] = {
    "  comparing two, agrees": lambda f: percent(f["accuracy"]),
    "  same in both orders": lambda f: percent(f["consistent"], bare=True),
    "  names the first": lambda f: percent(f["names_first"], bare=True),
}
_CANARY_ROWS: dict[str, Callable[[Figures], str]] = {
    "canary uplift, points": lambda f: points(f["uplift"]),
    "  most": lambda f: f"{f['worst']['uplift']:+.2f}, {f['worst']['kind']}" if f["worst"] else "-",
}


def _row(
    rounds: Sequence[Figures], label: str, part: str, cell: Callable[[Figures], str]
) -> list[str]:
    return [label, *(cell(f[part]) if f[part] else "not measured" for f in rounds)]
