"""What DPO trains on, and what was left out."""

from collections import Counter
from typing import Any

from selfreward.errors import NotFoundError
from selfreward.storage.directory import Run
from selfreward.verbs.console import bold, dim
from selfreward.verbs.layout import indented, listed

_NAMES = (
    "attempt", "prompt", "chosen_sample", "rejected_sample", "chosen_score", "rejected_score",
    "chosen", "rejected",
)  # fmt: skip
_PAIRS = """
SELECT p.attempt, q.text, p.chosen, p.rejected, p.chosen_score, p.rejected_score, c.text, r.text
FROM pairs AS p
JOIN prompts AS q ON q.iteration = p.iteration AND q.attempt = p.attempt
JOIN responses AS c ON c.iteration = p.iteration AND c.attempt = p.attempt AND c.sample = p.chosen
JOIN responses AS r ON r.iteration = p.iteration AND r.attempt = p.attempt AND r.sample = p.rejected
WHERE p.iteration = ? ORDER BY p.attempt, p.chosen, p.rejected"""


def pairs_of(run: Run, iteration: int | None) -> dict[str, Any]:
    """The pairs of an iteration and why other prompts and responses gave none.

    Iteration None is the last one whose pairs are built.

    Raises:
        NotFoundError: The pairs are not built.
    """
    with run.store() as store:
        built = [stage.iteration for stage in store.stages() if stage.stage == "pairs"]
        if not built or iteration not in (None, *built):
            which = "" if iteration is None else f" of iteration {iteration}"
            raise NotFoundError(
                f"run {run.name}: the pairs{which} are not built",
                f"Iterations with pairs: {', '.join(map(str, built)) or 'none yet'}.",
            )
        iteration = built[-1] if iteration is None else iteration
        rows = [dict(zip(_NAMES, row, strict=True)) for row in store.query(_PAIRS, (iteration,))]
        query = "SELECT stage, item, reason FROM drops WHERE iteration = ? AND stage != 'prompts'"
        drops = list(store.query(query, (iteration,)))
    of_pairs = [(item, reason) for stage, item, reason in drops if stage == "pairs"]
    return {
        "run": run.name,
        "iteration": iteration,
        "pairs": [row | {"margin": row["chosen_score"] - row["rejected_score"]} for row in rows],
        "prompts_dropped": Counter(reason for item, reason in of_pairs if "/" not in item),
        "responses_dropped": Counter(reason for item, reason in of_pairs if "/" in item),
        "not_trained": Counter(reason for stage, _, reason in drops if stage == "train"),
    }


def pairs_text(pairs: dict[str, Any], limit: int) -> str:
    """What ``selfreward pairs`` prints: at most ``limit`` pairs, then the counts."""
    lines = [bold(f"{pairs['run']}, iteration {pairs['iteration']}: {len(pairs['pairs'])} pairs")]
    for pair in pairs["pairs"][:limit]:
        lines += [
            "",
            bold(f"prompt {pair['attempt']}") + f"  margin {pair['margin']:.3g} points",
            indented(pair["prompt"], "  "),
            dim(f"  chosen, response {pair['chosen_sample']}, score {pair['chosen_score']:.3g}:"),
            indented(pair["chosen"], "    "),
            dim(f"  rejected, response {pair['rejected_sample']}")
            + dim(f", score {pair['rejected_score']:.3g}:"),
            indented(pair["rejected"], "    "),
        ]
    if len(pairs["pairs"]) > limit:
        lines += ["", dim(f"and {len(pairs['pairs']) - limit} more: --limit, or --json for all")]
    lines += ["", f"prompts without a pair: {_total(pairs['prompts_dropped'])}"]
    lines.append(f"responses that took no part: {_total(pairs['responses_dropped'])}")
    lines.append(f"pairs not trained on: {_total(pairs['not_trained'])}")
    return "\n".join(lines)


def _total(counts: Counter[str]) -> str:
    return f"{counts.total()} ({listed(dict(counts.most_common()))})" if counts else "none"
