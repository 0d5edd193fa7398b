"""MLflow: a run in the experiment `detector`, at the place that MLFLOW_TRACKING_URI names."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from detector.arrays import ImageArray
from detector.loggers.messages import Row, Start, Status

_PROJECT = "detector"
_RUN_TAG = "detector.run"
_MOST_METRICS, _MOST_PARAMS = 1000, 100
"""Largest numbers of metrics and of parameters that MLflow accepts in a request."""
_LONGEST_VALUE = 5000
"""Largest number of characters of a parameter or tag: MLflow accepts 6000 and 8000."""

_STATUS: dict[Status, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MLflow:
    """A run of MLflow. A resumed run is found by a tag with its id, so that it continues the same curves.

    Args:
        start: the run.
    """

    def __init__(self, start: Start) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import ViewType

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if not experiment:
            known = self._client.get_experiment_by_name(name)
            experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        runs = self._client.search_runs(
            [experiment], f"tags.`{_RUN_TAG}` = '{start.run_id}'", run_view_type=ViewType.ALL, max_results=1
        )
        self._last_step, self._params = 0, set[str]()
        if runs:
            self._run_id = runs[0].info.run_id
            self._params = set(runs[0].data.params)
            self._last_step = self._last_logged()
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            facts = {f"detector.{name}": str(value)[:_LONGEST_VALUE] for name, value in start.facts.items()}
            tags = {_RUN_TAG: start.run_id, "detector.folder": str(start.folder)}
            created = self._client.create_run(experiment, run_name=start.name, tags=tags | facts)
            self._run_id = created.info.run_id
        self.place = f"run {self._run_id} in the experiment {name!r} at {self._client.tracking_uri}"

    def _last_logged(self) -> int:
        """Return the last step that was logged before the run was interrupted."""
        history = self._client.get_metric_history(self._run_id, "train/loss")
        return max((metric.step for metric in history), default=0)

    def settings(self, step: int, values: Mapping[str, object]) -> None:
        """Log settings as parameters. MLflow cannot change them, so changes of the plan are only in config.json."""
        from mlflow.entities import Param

        params = [
            Param(name, str(value)[:_LONGEST_VALUE]) for name, value in values.items() if name not in self._params
        ]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._run_id, params=params[first : first + _MOST_PARAMS])
        self._params |= {param.key for param in params}
        self._client.log_text(self._run_id, json.dumps(dict(values), indent=2, default=str), "config.json")

    def steps(self, rows: Sequence[Row]) -> None:
        """Log metrics of steps; those that were logged before the run was interrupted are left out."""
        self._log([row for row in rows if row.step > self._last_step])

    def evaluation(self, row: Row, images: Mapping[str, ImageArray]) -> None:
        """Log metrics, and images as artifacts with a step."""
        self._log([row])
        for name, image in images.items():
            self._client.log_image(self._run_id, image, key=f"val_{name}", step=row.step)

    def _log(self, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, round(row.time * 1000), row.step) for row in rows for name, value in row.values.items()
        ]
        for first in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + _MOST_METRICS])

    def file(self, path: Path) -> None:
        """Store a file as artifact."""
        self._client.log_artifact(self._run_id, str(path), path.parent.name)

    def close(self, status: Status) -> None:
        """Set the final status of the run."""
        self._client.set_terminated(self._run_id, _STATUS[status])
