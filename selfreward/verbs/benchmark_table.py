"""The table of what benchmarks found, for ``benchmark``, ``scores``, the report and the viewer."""

import re
from collections.abc import Sequence

from selfreward.measures.reports import BenchmarkResults, Estimate
from selfreward.storage.benchmarks import Benchmark, Score, read_benchmarks
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.verbs.layout import MISSING, estimated, table, table_width
from selfreward.verbs.lineage import lineage

_SHARES = re.compile(r".*acc|exact|em\b|f1|mc[12]\b|pass@")
"""Names of lm-eval's metrics that are shares; a perplexity or a count of bits is none."""


def benchmarks_of(run: Run, store: Store) -> list[Benchmark]:
    """What the evaluations of a run found of its models, and what was found on demand."""
    digests = {made.model: made.digest for made in lineage(store)}
    digests.setdefault("M1", run.base_model().get("digest", ""))
    found = []
    for stage in store.stages():
        model = f"M{stage.iteration + 1}"
        taken = store.report(stage.iteration, "benchmarks", BenchmarkResults)
        for each in taken.results if taken and stage.stage == "evaluate" else ():
            found.append(Benchmark(
                model=model, digest=digests.get(model, ""), task=each.name,
                by=f"selfreward {stage.versions.get('selfreward', '')}".rstrip(),
                version=each.version, style=each.style, limit=None, n=len(each.right["acc"]),
                scores={metric: _score(share) for metric, share in each.scores.items()},
                right=each.right, seconds=None, at=stage.finished,
            ))  # fmt: skip
    return [*found, *read_benchmarks(run)]


def _score(share: Estimate) -> Score:
    assert share.value is not None  # a benchmark has a question
    return Score(share.value, share.low, share.high)


def benchmarks_text(results: Sequence[Benchmark], width: int = 80) -> str:
    """``benchmark_rows`` as text.

    Args:
        width: Columns at most.
    """
    return _parted(benchmark_rows(results), width)


def benchmark_rows(results: Sequence[Benchmark], less: bool = True) -> list[list[str]]:
    """Tasks by model, and how far each is from M1, or else from the first model there.

    What a model lost on tasks that it was not trained for is the alignment tax (InstructGPT, arXiv
    2203.02155, 4.2).

    Args:
        less: Whether to say how far, which takes NumPy.
    """
    names = list(dict.fromkeys(each.model for each in results))
    names.sort(key=lambda name: (int(name[1:]) if re.fullmatch(r"M\d+", name) else -1, name))
    rows = [["benchmark", *names]]
    for asked in dict.fromkeys(each.asked for each in results):
        by_model = {each.model: each for each in results if each.asked == asked}
        first = by_model.get("M1") or next(by_model[name] for name in names if name in by_model)
        count = f", {first.n} questions" if first.n else ""
        part = f", first {first.cut}" if first.cut is not None else ""
        rows.append([f"{first.task}{count}{part}, {first.by}"])
        for metric in first.scores:
            rows.append([f"  {metric}", *(_cell(by_model.get(name), metric) for name in names)])
            if less and len(by_model) > 1:
                apart = [_less(by_model.get(name), first, metric) for name in names]
                rows.append([f"    less {first.model}", *apart])
    return rows


def _parted(rows: list[list[str]], width: int) -> str:
    """As many columns side by side as fit, the others in further tables."""
    parts, start, count = [], 1, len(rows[0])
    while start < count:
        end = count
        while end > start + 1 and table_width(_columns(rows, start, end)) > width:
            end -= 1
        parts.append(table(_columns(rows, start, end)))
        start = end
    return "\n\n".join(parts)


def _columns(rows: list[list[str]], start: int, end: int) -> list[list[str]]:
    return [[row[0], *row[start:end]] for row in rows]


def _is_share(score: Score, metric: str) -> bool:
    """Whether a figure is shown in percent: not one that only happens to lie below 1."""
    return 0 <= score.value <= 1 and _SHARES.match(metric) is not None


def _cell(found: Benchmark | None, metric: str) -> str:
    if found is None or metric not in found.scores:
        return MISSING
    score = found.scores[metric]
    if not _is_share(score, metric):
        interval = "" if score.low is None else f" [{score.low:.4g}, {score.high:.4g}]"
        return f"{score.value:.4g}{interval}"
    if score.low is None or score.high is None:
        return f"{score.value:.1%}"
    return f"{score.value:.1%} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def _less(found: Benchmark | None, first: Benchmark, metric: str) -> str:
    if found is None or found is first or metric not in found.scores:
        return MISSING
    if metric in found.right and metric in first.right:
        from selfreward.measures.benchmarks import gained  # NumPy, which the viewer goes without

        return estimated(gained(found.right[metric], first.right[metric]), "+.1f", 100)
    score, base = found.scores[metric], first.scores.get(metric)
    if base is None:
        return MISSING
    apart = score.value - base.value
    is_share = _is_share(score, metric) and _is_share(base, metric)
    return f"{100 * apart:+.1f}" if is_share else f"{apart:+.4g}"
