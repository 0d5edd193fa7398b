"""Weights & Biases: a run in the project `detector`, or in the one that WANDB_PROJECT names."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from detector.arrays import ImageArray
from detector.loggers.messages import Row, Start, Status

_PROJECT = "detector"


class WeightsAndBiases:
    """A run of Weights & Biases. The id of a resumed run is the same, so that it continues the same curves.

    The mode (online, offline, disabled), the server and the key are those of the user: WANDB_MODE, `wandb login`, ...

    Args:
        start: the run.
    """

    def __init__(self, start: Start) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=os.environ.get("WANDB_NAME") or start.name,
            id=os.environ.get("WANDB_RUN_ID") or start.run_id,
            resume="allow",
            config={"facts": dict(start.facts), "folder": str(start.folder)},
            settings=wandb.Settings(console="off"),
        )
        # Not `step` of `log`: it would drop rows that are not in order, such as those of an evaluation.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        self._last_step = int(self._run.summary.get("step") or 0) if self._run.resumed else 0
        self._name = start.run_id
        self.place = self._run.url or f"offline, in {Path(self._run.dir).parent}; to upload it: wandb sync --append"

    def settings(self, step: int, values: Mapping[str, object]) -> None:
        """Log settings as the configuration of the run."""
        self._run.config.update(dict(values), allow_val_change=True)

    def steps(self, rows: Sequence[Row]) -> None:
        """Log metrics of steps; those that were logged before the run was interrupted are left out."""
        for row in rows:
            if row.step > self._last_step:
                self._run.log({"step": row.step, **row.values})

    def evaluation(self, row: Row, images: Mapping[str, ImageArray]) -> None:
        """Log metrics and images."""
        shown = {f"val/{name}": self._wandb.Image(image) for name, image in images.items()}
        self._run.log({"step": row.step, **row.values, **shown})

    def file(self, path: Path) -> None:
        """Store a file as an artifact of the kind "model"."""
        artifact = self._wandb.Artifact(f"{self._name}-{path.stem}", type="model")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self, status: Status) -> None:
        """Upload the rest, and end the run."""
        self._run.finish(exit_code=0 if status == "finished" else 1)
