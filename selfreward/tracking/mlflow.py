"""MLflow at ``MLFLOW_TRACKING_URI``; without one in ``tracking/mlflow.db`` of the run."""

import os

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from selfreward.tracking.base import About, Row

_ROW = "selfreward/row"
"""Metric that holds the place of each row."""
_ID = "selfreward.id"
_MOST = 1000
"""Metrics in one batch, by MLflow's API."""


def open_tracker(about: About) -> "MLflow":
    """Open the run of that id, or go on with it; see ``base.open_tracker``."""
    return MLflow(about)


class MLflow:
    """A row is written in one transaction, at a time that is its place, so that none doubles."""

    def __init__(self, about: About) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{about.directory / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "selfreward")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        runs = self._client.search_runs([experiment], f"tags.`{_ID}` = '{about.id}'")
        if runs:
            self._run = runs[0]
        else:
            self._run = self._client.create_run(
                experiment, run_name=about.name, tags={_ID: about.id}
            )

    def last(self) -> int:
        """The last row that it has."""
        return int(self._run.data.metrics.get(_ROW, 0))

    def log(self, row: Row) -> None:
        """Write a row."""
        values = [*row.values.items(), (_ROW, row.at)]  # last, as the row is whole with it
        metrics = [Metric(name, float(value), row.at, row.at) for name, value in values]
        for begin in range(0, len(metrics), _MOST):
            self._client.log_batch(self._run.info.run_id, metrics[begin : begin + _MOST])

    def flush(self) -> bool:
        """Every row is kept when ``log`` returns."""
        return True

    def close(self) -> None:
        """Mark the run as finished; rows may still be added."""
        self._client.set_terminated(self._run.info.run_id)
