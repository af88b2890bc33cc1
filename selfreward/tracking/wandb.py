"""Weights & Biases; ``WANDB_API_KEY``, ``WANDB_MODE`` and its other variables are its own."""

import os

import wandb

from selfreward.tracking.base import About, Row


def open_tracker(about: About) -> "WeightsAndBiases":
    """Open the run of that id, or go on with it; see ``base.open_tracker``."""
    return WeightsAndBiases(about)


class WeightsAndBiases:
    """It sends in a process of its own, and steps must grow: a row that is there is not doubled."""

    def __init__(self, about: About) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "selfreward"),
            id=about.id,
            name=about.name,
            config=about.config,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(about.directory)),
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, save_code=False,
                x_disable_stats=True, x_disable_meta=True,
            ),
        )  # fmt: skip

    def last(self) -> int:
        """The last step that the server has; 0 where there is none to ask."""
        return max(0, int(self._run.step) - 1)

    def log(self, row: Row) -> None:
        """Log a row at its step."""
        self._run.log(row.values, step=row.at, commit=True)

    def flush(self) -> bool:
        """It cannot be told to, nor tell."""
        return False

    def close(self) -> None:
        """Wait until all is sent, or in its files where it is offline."""
        self._run.finish()
