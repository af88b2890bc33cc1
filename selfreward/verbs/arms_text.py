"""The text of ``selfreward compare``: what is going to be run, and what came of it."""

from collections import Counter
from collections.abc import Mapping, Sequence

from selfreward.measures.arms import TRUNCATED, ArmMeasure, Unit
from selfreward.measures.reports import Estimate
from selfreward.verbs.arms import ArmRun
from selfreward.verbs.compare import MOST_APART, Compared, ComparedArm, ComparePlan, place
from selfreward.verbs.console import bold, dim
from selfreward.verbs.layout import (
    MISSING,
    counted,
    duration,
    estimated,
    filled,
    fitted,
    table,
    table_width,
)
from selfreward.verbs.train_reward import RewardReport

FOOTNOTE = """\
[ ] is the 95% interval over questions, the seeds of a question kept together: what other \
questions might have told, not what other seeds might. Best: the best model of each run by {by}, \
which is flattered where it is chosen by the answers that it is measured by."""
_FORMS: dict[Unit, tuple[str, float, str]] = {
    "share": (".1f", 100, "%"), "characters": (".0f", 1, ""), "reward": (".2f", 1, ""),
}  # fmt: skip
_OFF = "!"


# What is going to be run


def plan_text(plan: ComparePlan, width: int = 80) -> str:
    """What ``selfreward compare --dry-run`` prints.

    Args:
        width: Of the terminal, in columns; 40 and more.
    """
    rows = [["arm", "tokens sampled, at most", "training steps, at most"]]
    for each in plan.budgets:
        cells = {"tokens": f"{each.tokens:,}", "steps": f"{each.steps:,}"}
        rows.append([each.arm, *(_marked(cells[name], name in each.apart) for name in cells)])
    blocks = [_table(rows, width)]
    if any(each.apart for each in plan.budgets):
        blocks.append(_apart_note(width))
    if plan.rewards:
        blocks.append(_rewards(plan.rewards, width))
    blocks.append(
        _table([["run", "state", "begins as", "makes"], *map(_planned, plan.runs)], width)
    )
    left = [run for run in plan.runs if run.state != "finished"]
    time = "unknown until one of its runs is finished"
    if plan.seconds is not None:
        time = f"about {duration(plan.seconds)}, as the same stages took before"
    said = f"{counted(len(left), 'run')} of {len(plan.runs)} to go; time: {time}"
    return "\n\n".join([*blocks, said])


def _planned(run: ArmRun) -> list[str]:
    shares = run.shares
    from_ = f"{shares.run} up to {place(shares.iteration, shares.stage)}" if shares else MISSING
    stages = Counter(stage.partition("/")[0] for _, stage in run.left)
    makes = ", ".join(f"{n} {stage}" if n > 1 else stage for stage, n in stages.items())
    return [run.run, run.state, from_, makes or MISSING]


# What came of it


def compare_text(found: Compared, width: int = 80) -> str:
    """What ``selfreward compare`` prints.

    Args:
        width: Of the terminal, in columns; 40 and more.
    """
    blocks = [_measure(found, name, width) for name in found.measures if _says(found, name)]
    if blocks:
        blocks.append(dim(filled(FOOTNOTE.format(by=found.by), width)))
    if found.rewards:
        blocks.append(_rewards(found.rewards, width))
    blocks.append(_uses(found, width))
    if any(arm.apart for arm in found.arms):
        blocks.append(_apart_note(width))
    blocks += _unfinished(found, width)
    return "\n\n".join(blocks)


def _says(found: Compared, name: str) -> bool:
    """Whether a measure tells anything; where no answer was cut off there is no need to say so."""
    rows = [each for arm in found.arms for each in arm.measures if each.measure == name]
    return name != TRUNCATED or any(one.value for row in rows for one in row.models.values())


def _rewards(rewards: Mapping[str, RewardReport | None], width: int) -> str:
    """What the reward models order as people do, of answers that they were not trained on."""
    rows = [["reward model", "trained on", "held-out pairs", "in order", "by length"]]
    for name, found in rewards.items():
        if found is None:
            rows.append([name, "still to be made", MISSING, MISSING, MISSING])
            continue
        on = f"{counted(found.answers, 'answer')} to {counted(found.prompts, 'prompt')}"
        test = [MISSING] * 3
        if found.test is not None:
            ordered = found.test
            test = [f"{ordered.pairs:,}", f"{ordered.reward:.1%}", f"{ordered.longest:.1%}"]
        rows.append([name, on, *test])
    return _table(rows, width)


def _measure(found: Compared, name: str, width: int) -> str:
    """A measure of all arms, a row each."""
    first = found.arms[0].name
    apart = ["last less M1", f"last less {first}'s"]
    rows = [["arm", "M1", "last", "by seed", "best", *apart]]
    unit: Unit = "share"
    for arm in found.arms:
        one = next((each for each in arm.measures if each.measure == name), None)
        if one is None:
            continue
        unit = one.unit
        rows.append([arm.name, *_cells(one)])
    kept = [at for at in range(len(rows[0])) if any(row[at] != MISSING for row in rows[1:])]
    rows = [[row[at] for at in kept] for row in rows]
    of = {"share": "share", "characters": "characters, mean", "reward": "mean"}[unit]
    return f"{bold(name)}, {of}\n{_table(rows, width)}"


def _cells(one: ArmMeasure) -> list[str]:
    form, scale, unit = _FORMS[one.unit]

    def cell(estimate: Estimate | None, sign: str = "") -> str:
        if estimate is None or estimate.value is None:
            return MISSING
        return estimated(estimate, f"{sign}{form}", scale, "" if sign else unit)

    each = [MISSING if v is None else f"{scale * v:{form}}" for v in one.seeds.values()]
    return [
        cell(one.models.get("M1")), cell(one.last), " ".join(each) if len(each) > 1 else MISSING,
        cell(one.best), cell(one.gain, "+"), cell(one.over_first, "+"),
    ]  # fmt: skip


def _uses(found: Compared, width: int) -> str:
    heads = ["prompts", "responses", "votes", "tokens sampled", "training steps", "time"]
    rows = [["arm", "seeds", *heads]]
    for arm in found.arms:
        done = sum(run.is_finished for run in arm.runs)
        rows.append([arm.name, f"{done} of {len(arm.runs)}", *_use_cells(arm)])
    return f"{bold('what a run took')}, mean over seeds\n{_table(rows, width)}"


def _use_cells(arm: ComparedArm) -> list[str]:
    use = arm.use
    if use is None:
        return [MISSING] * 6
    cells = {
        "prompts": f"{use.prompts:,.0f}", "responses": f"{use.responses:,.0f}",
        "votes": f"{use.votes:,.0f}", "tokens": f"{use.tokens:,.0f}",
        "steps": f"{use.steps:,.0f}", "seconds": duration(use.seconds),
    }  # fmt: skip
    return [_marked(cell, name in arm.apart) for name, cell in cells.items()]


def _unfinished(found: Compared, width: int) -> list[str]:
    lines = []
    for arm in found.arms:
        for run in arm.runs:
            if run.is_finished:
                continue
            why = f"cannot go on: {run.stopped}" if run.stopped else "is not finished"
            lines.append(filled(f"{run.run} {why}", width, "  "))
    return ["\n".join(lines)] if lines else []


def _apart_note(width: int) -> str:
    return dim(filled(f"{_OFF} differs from the first arm's by more than {MOST_APART:.0%}", width))


def _marked(cell: str, is_off: bool) -> str:
    return f"{cell} {_OFF}" if is_off else cell


def _table(rows: Sequence[Sequence[str]], width: int) -> str:
    """A table with a head; where it is too wide a line for each row, its cells by name."""
    head, *others = rows
    full = [[bold(cell) for cell in head], *others]
    if table_width(full) <= width:
        return table(full)
    lines = [
        [first, "; ".join(f"{h} {c}" for h, c in zip(head[1:], cells, strict=True) if c != MISSING)]
        for first, *cells in others
    ]
    return fitted(lines, width)
