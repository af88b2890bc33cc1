"""A run worked on from the command line, with its progress shown; see ``main.py``."""

from typing import TYPE_CHECKING

import typer

from selfreward.verbs import console

if TYPE_CHECKING:
    from selfreward.storage.directory import Run

INTERRUPTED, TERMINATED = 130, 143


def work(run: "Run", *, is_new: bool, hint: str = "") -> None:
    """Do all that is left of a run, showing progress.

    Args:
        is_new: Whether it was made just now, so that it need not stay if it records nothing.
        hint: Said where it is cut off, in place of how to resume the run.

    Raises:
        typer.Exit: Ctrl-C or SIGTERM, after it is said what has been kept.
        SelfRewardError: See ``api.launch``.
    """
    from selfreward import api
    from selfreward.sigterm import Terminated
    from selfreward.verbs.maintenance import told_as_damage
    from selfreward.verbs.progress import Display

    said: list[str] = []
    try:
        with told_as_damage(run), Display(run) as display:
            api.launch(run, display.tick, is_new=is_new, say=said.append)
    except (KeyboardInterrupt, Terminated) as stop:
        for line in [hint] if hint else getattr(stop, "__notes__", ()):
            console.note(line)
        code = INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
        raise typer.Exit(code) from None
    finally:
        for line in said:
            console.note(line)
