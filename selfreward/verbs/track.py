"""Sending a run to trackers, of now or of before: those that were down, and others."""

from collections.abc import Sequence
from typing import Any, get_args

from selfreward.config.run import TrackerName
from selfreward.errors import ConfigError, PreflightError
from selfreward.storage.directory import Run
from selfreward.tracking.base import check_installed
from selfreward.tracking.follower import watermark_path
from selfreward.tracking.process import send
from selfreward.tracking.rows import begun_anew, bounds
from selfreward.tracking.watermark import Watermark
from selfreward.verbs.layout import table


def track_run(
    run: Run, to: Sequence[str] | None
) -> tuple[list[dict[str, Any]], list[PreflightError]]:
    """Send each tracker what it has not got, whatever becomes of the others.

    Args:
        to: Trackers; None: those of the run's ``track``.

    Returns:
        Per tracker its name, the rows ``sent`` now, and of how many ``rows`` in all it has had; and
        an error of each whose library is not installed, or which has not taken all.

    Raises:
        ConfigError: No such tracker, or none is named.
    """
    names = list(dict.fromkeys(run.config.track if to is None else to))
    known = get_args(TrackerName)
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"--to {unknown[0]}: no such tracker", f"One of: {', '.join(known)}.")
    if not names:
        raise ConfigError(
            f"run {run.name} names no trackers", f"Say which: --to {', --to '.join(known)}."
        )
    found, failed = [], []
    for name in names:
        before = Watermark.read(watermark_path(run, name))
        try:
            check_installed(name)
            send(run, name)
        except PreflightError as error:
            failed.append(error)
        after = Watermark.read(watermark_path(run, name))
        sent = after.sent + after.shift - before.sent - before.shift
        found.append({"tracker": name, "sent": sent, "rows": after.sent})
    return found, failed


def lacking(run: Run) -> list[str]:
    """The trackers of a run's ``track`` that have not got all of it, as their marks tell."""
    if not run.config.track:
        return []
    with run.store() as store, store.snapshot():
        now, anew = bounds(store), begun_anew(store)
    marks = {name: Watermark.read(watermark_path(run, name)) for name in run.config.track}
    return [name for name, mark in marks.items() if mark.begun_anew(*now, anew).sent < now[1]]


def track_text(found: Sequence[dict[str, Any]]) -> str:
    """What ``selfreward track`` prints."""
    rows = [[str(one[key]) for key in ("tracker", "sent", "rows")] for one in found]
    return table([["tracker", "sent now", "rows"], *rows])
