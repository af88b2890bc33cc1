"""What DPO trains on, what was left out, and what other pair rules would have made of it."""

from collections import Counter
from collections.abc import Sequence
from itertools import product
from statistics import fmean
from typing import Any

from selfreward.config import PairsConfig
from selfreward.config.load import load_copy
from selfreward.errors import ConfigError, NotFoundError
from selfreward.records import Comparison, Drop, Judgment, PreferencePair, Prompt, Response
from selfreward.stages.pairs import build_pairs
from selfreward.stages.rules import RULES
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.verbs.console import bold, dim
from selfreward.verbs.layout import indented, listed, share, table

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
        "trained": run.config.train.takes_own_pairs,
        "not_trained": Counter(
            reason
            for stage, _, reason in drops
            if stage == "train" and run.config.train.takes_own_pairs
        ),
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
    not_trained = _total(pairs["not_trained"]) if pairs["trained"] else "all"
    lines.append(f"pairs not trained on: {not_trained}")
    return "\n".join(lines)


def compare_rules(
    run: Run,
    iteration: int | None,
    rules: Sequence[str] = (),
    min_margins: Sequence[float] = (),
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Pair an iteration again, from its records, by each rule with each margin; nothing is written.

    Args:
        run: Its own settings come first, and are what the others are compared with.
        iteration: None is the last one that is judged.
        rules: Names as in ``pairs.rule``; if empty all, but ``anchored`` without anchors.
        min_margins: In points; the run's own if empty.
        overrides: Words such as ``pairs.rho=0.4``, for all rules but the run's own.

    Returns:
        ``run``, ``iteration``, ``prompts`` (accepted) and ``rules``, a mapping each: ``name``,
        ``own`` (are these the run's settings), ``settings``, ``pairs``, ``paired`` (prompts with
        a pair), ``dropped`` (prompts without, by reason), ``margin`` in points, ``chosen_length``
        and ``rejected_length`` in characters, ``identical`` (pairs that the run's own rule makes
        too) and ``overlap`` (their share among the pairs). Means of no pairs are None.

    Raises:
        ConfigError: A rule, margin or override is wrong.
        NotFoundError: The iteration is not judged.
    """
    own_name = _label(run.config.pairs)
    variants = {own_name: run.config.pairs}
    for settings in _variants(run, rules, min_margins, overrides):
        variants.setdefault(_label(settings), settings)
    with run.store() as store:
        iteration = _judged(run, store, iteration)
        prompts = store.records(Prompt, iteration)
        responses = store.records(Response, iteration)
        judgments = store.records(Judgment, iteration)
        comparisons = store.records(Comparison, iteration)
    lengths = {(r.attempt, r.sample): len(r.text) for r in responses}
    weights = run.config.judge.weights
    made = [
        build_pairs(prompts, responses, judgments, settings, weights, comparisons)
        for settings in variants.values()
    ]
    own = {_key(pair) for pair in made[0][0]}
    rows = [
        {"name": name, "own": name == own_name, "settings": settings.model_dump()}
        | _figures(pairs, drops, own, lengths)
        for (name, settings), (pairs, drops) in zip(variants.items(), made, strict=True)
    ]
    accepted = sum(prompt.dropped is None for prompt in prompts)
    return {"run": run.name, "iteration": iteration, "prompts": accepted, "rules": rows}


def comparison_text(found: dict[str, Any]) -> str:
    """What ``selfreward pairs --try`` prints."""
    head = ("rule", "pairs", "prompts", "margin", "length chosen/rejected", "as the run's", "none")
    rows = [[bold(name) for name in head]]
    for row in found["rules"]:
        margin, lengths = "-", "-"
        if row["pairs"]:
            margin = f"{row['margin']:.3f}"
            lengths = f"{row['chosen_length']:.0f} / {row['rejected_length']:.0f}"
        rows.append([
            row["name"] + (" (the run's)" if row["own"] else ""),
            f"{row['pairs']:,}",
            f"{row['paired']:,}",
            margin,
            lengths,
            f"{row['identical']:,} ({share(row['identical'], row['pairs'])})",
            listed(row["dropped"]) or "-",
        ])  # fmt: skip
    title = f"{found['run']}, iteration {found['iteration']}: {found['prompts']:,} prompts"
    return f"{bold(title)}\n\n{table(rows)}"


def _total(counts: Counter[str]) -> str:
    return f"{counts.total()} ({listed(dict(counts.most_common()))})" if counts else "none"


def _variants(
    run: Run, rules: Sequence[str], min_margins: Sequence[float], overrides: Sequence[str]
) -> list[PairsConfig]:
    if others := [word for word in overrides if not word.startswith("pairs.")]:
        raise ConfigError(
            f"{others[0]}: --try takes keys of pairs only, such as pairs.rho=0.4",
            "Anything else decides what is sampled; start a new run for it.",
        )
    for option, name in (("rule", "--try RULE"), ("min_margin", "--min-margin")):
        if any(word.startswith(f"pairs.{option}=") for word in overrides):
            raise ConfigError(f"--try takes pairs.{option} as {name}, once for each value")
    margins = list(min_margins) or [run.config.pairs.min_margin]
    every = [rule for rule in RULES if rule != "anchored" or run.config.responses.anchors]
    return [
        load_copy(
            run.resolved, [f"pairs.min_margin={margin}", *overrides, f"pairs.rule={rule}"]
        ).pairs
        for margin, rule in product(margins, rules or every)
    ]


def _judged(run: Run, store: Store, iteration: int | None) -> int:
    finished = {(stage.iteration, stage.stage) for stage in store.stages()}
    judged = [
        t
        for t in range(1, run.config.iterations + 1)
        if all((t, stage) in finished for stage in run.config.rollout_stages(t))
    ]
    if not judged or iteration not in (None, *judged):
        which = "" if iteration is None else f" of iteration {iteration}"
        raise NotFoundError(
            f"run {run.name}: the answers{which} are not judged",
            f"Judged iterations: {', '.join(map(str, judged)) or 'none yet'}.",
        )
    return judged[-1] if iteration is None else iteration


def _figures(
    pairs: list[PreferencePair],
    drops: list[Drop],
    own: set[tuple[int, int, int]],
    lengths: dict[tuple[int, int], int],
) -> dict[str, Any]:
    n = len(pairs)
    identical = sum(_key(pair) in own for pair in pairs)
    dropped = Counter(drop.reason for drop in drops if "/" not in drop.item)
    return {
        "pairs": n,
        "paired": len({pair.attempt for pair in pairs}),
        "dropped": dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
        "margin": fmean(p.margin for p in pairs) if n else None,
        "chosen_length": fmean(lengths[p.attempt, p.chosen] for p in pairs) if n else None,
        "rejected_length": fmean(lengths[p.attempt, p.rejected] for p in pairs) if n else None,
        "identical": identical,
        "overlap": identical / n if n else None,
    }


def _key(pair: PreferencePair) -> tuple[int, int, int]:
    return pair.attempt, pair.chosen, pair.rejected


def _label(settings: PairsConfig) -> str:
    """The rule and those of its settings that matter to it."""
    parts: list[str] = [settings.rule]
    if settings.rule == "length_control":
        parts.append(f"rho={settings.rho:g}")
    if settings.rule == "all_pairs" and settings.max_per_prompt:
        parts.append(f"max_per_prompt={settings.max_per_prompt}")
    if settings.min_margin:
        parts.append(f"min_margin={settings.min_margin:g}")
    if settings.min_agreement:
        parts.append(f"min_agreement={settings.min_agreement:g}")
    if settings.min_jurors:
        parts.append(f"min_jurors={settings.min_jurors:g}")
    return " ".join(parts)
