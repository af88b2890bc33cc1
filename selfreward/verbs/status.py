"""Where runs are: stage, rate, time left, last error, owner.

Everything comes from the run directory, so another shell sees what the running one does.
"""

import socket
from collections.abc import Sequence
from typing import Any

from selfreward.errors import NotFoundError, SelfRewardError
from selfreward.measures.figures import figures_of
from selfreward.records import Progress, Stage
from selfreward.storage.directory import Run, list_runs, runs_root
from selfreward.storage.store import Store
from selfreward.verbs.console import bold, dim
from selfreward.verbs.layout import duration, table


def status_of(run: Run) -> dict[str, Any]:
    """Where a run is.

    Returns:
        ``state`` (``running``, ``stopped``, ``failed`` or ``finished``), the current ``iteration``
        and ``stage`` (the first of those at work), its ``done`` of ``total`` and ``rate`` per
        second, ``eta_s`` of all at work, None where unknown, every ``stages`` row of the current
        iteration, the ``owner``, the last error and the ``warnings`` of the last launch.
    """
    settings = run.settings
    with run.store() as store:
        progress, finished = store.progress(), store.stages()
        events, owner = store.events(), store.owner()
        last = progress[-1] if progress else None
        iteration = last.iteration if last else 0 if settings["sft"] is not None else 1
        planned = store.planned(iteration)
    owned = run.is_owned
    rows = stage_rows(iteration, planned, progress, finished)
    working = [row for row in rows if row["state"] == "working"]
    begun = [row["stage"] for row in rows if row["state"] != "waiting"]
    now = working[0] if working else {"done": None, "total": None, "rate": None, "note": ""}
    errors = [text for _, kind, text in events if kind == "error"]
    launches = [at for at, (_, kind, _) in enumerate(events) if kind == "launched"]
    launched = events[launches[-1] :] if launches else []
    return {
        "run": run.name,
        "path": str(run.path),
        "model": settings["model"],
        "iterations": settings["iterations"],
        "state": _state(owned, [kind for _, kind, _ in events]),
        "iteration": iteration,
        "stage": working[0]["stage"] if working else begun[-1] if begun else None,
        **{key: now[key] for key in ("done", "total", "rate", "note")},
        "eta_s": total_eta(working),
        "updated": last.at if last else None,
        "stages": rows,
        "owner": {**owner, "alive": owned, "here": owner["host"] == socket.gethostname()},
        "error": errors[-1] if errors and events[-1][1] == "error" else None,
        "warnings": [text for _, kind, text in launched if kind == "warning"],
    }


def stage_rows(
    iteration: int, planned: Sequence[str], progress: Sequence[Progress], finished: Sequence[Stage]
) -> list[dict[str, Any]]:
    """The planned stages of an iteration, each ``waiting``, ``working`` or ``finished``."""
    begun = {p.stage: p for p in progress if p.iteration == iteration}
    ended = {s.stage: s for s in finished if s.iteration == iteration}
    rows = []
    for stage in planned:
        row: dict[str, Any] = {"stage": stage, "state": "waiting", "done": 0, "total": None}
        row |= {"seconds": 0.0, "rate": None, "eta_s": None, "note": ""}
        if stage in begun:
            p = begun[stage]
            row |= {"state": "working", "done": p.done, "total": p.total or None, "note": p.note}
            row |= {"seconds": p.seconds, "rate": rate(p), "eta_s": eta(p)}
        if stage in ended:
            row |= {"state": "finished", "done": ended[stage].rows, "total": None, "note": ""}
            row |= {"seconds": ended[stage].seconds, "eta_s": 0.0}
        rows.append(row)
    return rows


def rate(progress: Progress) -> float | None:
    """Units a second, None while there is nothing to go by."""
    return progress.done / progress.seconds if progress.done and progress.seconds else None


def eta(progress: Progress) -> float | None:
    """Seconds that the rest of the stage takes at the rate so far."""
    if not progress.done or not progress.total:
        return None
    return max(0, progress.total - progress.done) * progress.seconds / progress.done


def total_eta(working: Sequence[dict[str, Any]]) -> float | None:
    """Seconds left of the stages at work; as they share the time, theirs add up."""
    left = [row["eta_s"] for row in working]
    return None if not left or None in left else sum(left)


def stage_cells(row: dict[str, Any]) -> list[str]:
    """A row of ``stage_rows`` as text: stage, done, share, pace, time left, note."""
    if row["state"] == "waiting":
        return [row["stage"], "waiting"]
    if row["state"] == "finished":
        return [row["stage"], f"finished, {row['done']} in {duration(row['seconds'])}"]
    total = row["total"]
    done = f"{row['done']}/{total}" if total else "starting"
    percent = f"{row['done'] / total:.0%}" if total else ""
    left = "" if row["eta_s"] is None else f"{duration(row['eta_s'])} left"
    if total and row["done"] >= total:
        left = "finishing"
    return [row["stage"], done, percent, _pace(row["rate"]), left, row["note"]]


def status_text(status: dict[str, Any]) -> str:
    """What ``selfreward status`` prints."""
    owner = status["owner"]
    where = "" if owner["here"] else f" on {owner['host']}"
    who = f", process {owner['pid']}{where} since {owner['since']}" if owner["alive"] else ""
    last = "M1" if status["iterations"] == 0 else f"M{status['iterations'] + 1}"
    lines = [
        f"{bold(status['run'])}  {status['state']}{who}",
        dim(f"{status['model']}, M0 to {last}; {status['path']}"),
        "",
        f"iteration {status['iteration']} of {status['iterations']}",
        table([stage_cells(row) for row in status["stages"]], indent="  "),
    ]
    if status["warnings"]:
        lines += ["", *(f"warning: {text}" for text in status["warnings"])]
    if status["error"]:
        lines += ["", f"last error: {status['error']}"]
    if status["state"] in ("stopped", "failed"):
        lines += ["", f"continue with: selfreward resume {status['run']}"]
    return "\n".join(lines)


def ls_rows() -> list[dict[str, Any]]:
    """One row per run under the runs directory: state, progress, pairs and latest mean score.

    A run that cannot be read has the state ``damaged`` and the ``error`` alone.
    """
    rows = []
    for run in list_runs():
        try:
            rows.append(_ls_row(run))
        except SelfRewardError as error:
            rows.append({"run": run.name, "state": "damaged", "error": str(error)})
    return rows


def _ls_row(run: Run) -> dict[str, Any]:
    status = status_of(run)
    with run.store() as store:
        pairs = next(store.query("SELECT count(*) FROM pairs"))[0]
        scored = _latest_scores(store)
    keys = ("run", "model", "iterations", "state", "iteration", "stage", "updated", "error")
    return {key: status[key] for key in keys} | {"pairs": pairs} | scored


def ls_text(rows: Sequence[dict[str, Any]]) -> str:
    """What ``selfreward ls`` prints."""
    if not rows:
        return f"no runs in {runs_root()}/; make one: selfreward run quickstart"
    head = ("run", "state", "model", "iteration", "stage", "pairs", "score")
    return table([[bold(name) for name in head], *map(_ls_cells, rows)])


def _ls_cells(row: dict[str, Any]) -> list[str]:
    if row["state"] == "damaged":
        return [row["run"], "damaged", row["error"]]
    iteration = f"{row['iteration']} of {row['iterations']}"
    cells = [row["run"], row["state"], row["model"], iteration, row["stage"] or "-"]
    return [*cells, str(row["pairs"]), _mean(row)]


def newest_run() -> Run:
    """The run that was written to last.

    Raises:
        NotFoundError: There is no run yet.
    """
    runs = list_runs()
    if not runs:
        raise NotFoundError(f"no runs in {runs_root()}/", "Make one: selfreward run quickstart")
    return max(runs, key=_touched)


def is_complete(run: Run) -> bool:
    """Whether nothing is left to do."""
    settings = run.settings
    with run.store() as store:
        events, stages = store.events(), store.stages()
    last = (settings["iterations"], "train")
    nothing_to_train = settings["iterations"] == 0 and settings["sft"] is None
    return (
        bool(events) and events[-1][1] == "finished" and (nothing_to_train or last in _keys(stages))
    )


def _state(owned: bool, kinds: Sequence[str]) -> str:
    if owned:
        return "running"
    return {"finished": "finished", "error": "failed"}.get(kinds[-1] if kinds else "", "stopped")


def _keys(stages: Sequence[Stage]) -> set[tuple[int, str]]:
    return {(stage.iteration, stage.stage) for stage in stages}


def _pace(rate: float | None) -> str:
    """Such as ``3.1/s`` or ``12 s each``."""
    if rate is None:
        return ""
    return f"{rate:.1f}/s" if rate >= 1 else f"{duration(1 / rate)} each"


def _latest_scores(store: Store) -> dict[str, Any]:
    """Mean score of the last iteration that has one."""
    last = next(store.query("SELECT max(iteration) FROM judgments"))[0]
    scores = figures_of(store, last)["scores"] if last else {"mean": None, "se": None, "n": 0}
    return {"scores_iteration": last, **{key: scores[key] for key in ("mean", "se", "n")}}


def _mean(row: dict[str, Any]) -> str:
    if row["mean"] is None:
        return "n/a (no scores)"
    error = "n/a" if row["se"] is None else f"{row['se']:.2f}"
    return f"{row['mean']:.2f} ± {error} (n = {row['n']})"


def _touched(run: Run) -> float:
    files = (run.records, run.records.with_name("records.db-wal"))
    return max(file.stat().st_mtime for file in files if file.exists())
