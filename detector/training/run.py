"""One training run: plan, steps, evaluations and checkpoints; from the start or from a checkpoint."""

import logging
import platform
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from detector.annotation import annotation_bytes
from detector.config import PLANNING_STEPS, Config
from detector.data.split import Split
from detector.diagnose.short_check import short_check
from detector.errors import ConfigError
from detector.evaluating.evaluate import detect_letterboxed_split, letterbox_split, score_split
from detector.graceful_shutdown import GracefulShutdown
from detector.loader.dataset import DetectionDataset
from detector.loader.loader import training_batches
from detector.metrics.average_precision import AveragePrecision
from detector.model.checkpoint import copy_weights
from detector.model.make_network import make_network
from detector.model.network import GridNetwork, uses_spp
from detector.predict.detector import Detector
from detector.runtime.hardware import choose_precision
from detector.runtime.pytorch import TorchRuntime
from detector.training import schedule
from detector.training.environment import environment_facts
from detector.training.optimizer import peak_learning_rate
from detector.training.run_folder import RunFolder
from detector.training.run_state import Progress
from detector.training.time_budget import (
    OVERRUN,
    Plan,
    choose_batch_size,
    choose_evaluations,
    expected_step_seconds,
    plan_minutes,
)
from detector.training.trainer import NonFiniteLossError, Trainer
from detector.weights_info import WeightsInfo

log = logging.getLogger(__name__)

_PAST_PLANNING = 4
"""Batches that the data loader makes beyond the planning steps, and that are discarded."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        folder: output folder: weights/best.safetensors, weights/last.safetensors, results.csv, config.json, ledger.json
            and more.
        steps: optimizer steps done.
        seconds: wall time from the start of the run.
        best: average precision on val of the best weights; None without a val split.
    """

    folder: Path
    steps: int
    seconds: float
    best: AveragePrecision | None

    @property
    def weights(self) -> Path:
        """The best weights, to be loaded with `Detector.load`."""
        return self.folder / "weights" / "best.safetensors"


@dataclass(frozen=True, eq=False)
class RunInputs:
    """What a run trains with and on.

    Attributes:
        config: settings.
        device: where to compute.
        dataset: the training images.
        split: the training split, as read.
        val: the split to evaluate on; None: the last weights are the best.
        description: of the data.
        weights: initial weights of the same architecture; None: random ones.
        same_classes: whether the last layers of the initial weights are used too.
    """

    config: Config
    device: torch.device
    dataset: DetectionDataset
    split: Split
    val: Split | None
    description: str
    weights: GridNetwork | None
    same_classes: bool


class TrainingRun:
    """One run.

    Args:
        inputs: what it trains with and on.
        folder: for the results.
        started: `time.monotonic()` at its start; of a resumed run, at the start of this process.
    """

    def __init__(self, inputs: RunInputs, folder: RunFolder, started: float) -> None:
        self._config, self._device, self._dataset = inputs.config, inputs.device, inputs.dataset
        self._split, self._val, self._description = inputs.split, inputs.val, inputs.description
        self._folder, self._started = folder, started
        self._batch_size = choose_batch_size(self._config, len(self._dataset))
        self._steps_per_epoch = len(self._dataset) / self._batch_size
        self._val_images = list(letterbox_split(self._val, self._dataset.input_hw)) if self._val else []
        self._progress = Progress(steps=0, evaluations=0)
        self._evaluation_seconds = 0.0
        self._saved_at = time.monotonic()
        self._shutdown = GracefulShutdown()
        self._dtype = choose_precision(self._config.precision, self._device)
        self._is_fresh = inputs.weights is None
        network = self._make_network(inputs)
        self._trainer = Trainer(network, self._config, self._device, self._dtype, self._steps_per_epoch)
        self._log_setup(network)

    def restore(self, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
        """Continue from a checkpoint instead of the start."""
        self._progress = progress
        self._trainer.restore(tensors)
        self._started = time.monotonic() - progress.seconds
        log.info(f"resuming after step {progress.step} of {progress.steps}")

    def facts(self) -> dict[str, object]:
        """Return what the last bit of the result depends on, besides the settings."""
        val = b"".join(
            annotation_bytes(image.annotation) + zlib.crc32(image.pixels.data).to_bytes(4) for image in self._val_images
        )
        data = f"{self._dataset.fingerprint}-{zlib.crc32(val):08x}"
        return {"data": data} | environment_facts(self._device)

    def train(self) -> TrainingResult:
        """Do the whole run, or the rest of it.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint has been saved.
            ConfigError: the loss became infinite or NaN.
        """
        progress = self._progress
        total = progress.steps or self._known_steps()
        bar = tqdm(total=total, initial=progress.step, unit="step", disable=None, dynamic_ncols=True)
        with self._shutdown, bar:
            if not progress.steps:
                self._check()
                self._make_plan(total, bar)
            after = set(schedule.evaluation_steps(progress.steps, progress.evaluations))
            if not self._shutdown.requested and not self._stopped_early():
                self._advance(progress.steps, progress.steps, after, bar)
        if self._shutdown.requested and progress.step < progress.steps and not self._stopped_early():
            self._save_state()
            log.info(f"stopped after step {progress.step}; to resume: detector train --resume {self._folder.path}")
            raise KeyboardInterrupt  # the caller should stop too
        return self._result()

    def _make_network(self, inputs: RunInputs) -> GridNetwork:
        torch.manual_seed(self._config.seed)
        network = make_network(
            self._config,
            len(self._split.class_names),
            *self._dataset.color_statistics(),
            spp=uses_spp(self._dataset.input_hw),
        )
        if inputs.weights is not None:
            copy_weights(network, inputs.weights, inputs.same_classes)
        return network

    def _log_setup(self, network: GridNetwork) -> None:
        height, width = self._dataset.input_hw
        place = "in memory" if self._dataset.in_memory else "read from disk each time"
        log.info(
            f"{self._config.model} network, {sum(p.numel() for p in network.parameters()):,} parameters; "
            f"input {width}x{height} (width x height), batch size {self._batch_size}, "
            f"{str(self._dtype).removeprefix('torch.')} on {self._device}, {torch.get_num_threads()} threads, "
            f"images {place}"
        )

    def _result(self) -> TrainingResult:
        progress, minutes = self._progress, self._config.minutes
        seconds = time.monotonic() - self._started
        log.info(f"done: {progress.step} steps in {seconds:.1f} s; weights in {self._folder.path / 'weights'}")
        if minutes is not None and seconds > OVERRUN * minutes * 60:
            log.warning(
                f"the run took {seconds / 60:.1f} min instead of {minutes:g}: the machine slowed down after the first "
                f"{PLANNING_STEPS} steps, from which the number of steps was computed"
            )
        best = None if progress.best is None else AveragePrecision(**progress.best)
        return TrainingResult(self._folder.path, progress.step, seconds, best)

    def _check(self) -> None:
        """Log what a short check finds."""
        splits = [self._split, self._val] if self._val else [self._split]
        fresh = self._trainer.network if self._is_fresh else None
        for finding in short_check(splits, self._dataset, fresh, self._batch_size):
            if finding.verdict != "ok":
                log.warning("%s", finding)

    def _make_plan(self, steps: int | None, bar: "tqdm[Any]") -> None:
        """Fix the number of steps and evaluations; with a budget in minutes, after timing the first steps."""
        progress = self._progress
        if steps is None:
            times = self._advance(PLANNING_STEPS, PLANNING_STEPS, set(), bar)
            if self._shutdown.requested:
                raise KeyboardInterrupt  # nothing worth keeping yet
            plan = self._plan_minutes(times)
            bar.total = plan.steps
        else:
            affordable = int(steps * self._batch_size / len(self._dataset) / 2)
            plan = Plan(steps, choose_evaluations(self._config, affordable))
        progress.steps, progress.evaluations = plan.steps, plan.evaluations
        self._folder.write_json("config.json", asdict(self._config) | self._resolved_settings())
        log.info(f"{progress.steps} steps, {progress.steps / self._steps_per_epoch:.1f} epochs, "
                 f"{progress.evaluations} evaluations; to repeat this run: --set steps={progress.steps}")  # fmt: skip
        if progress.step:
            self._save_state()

    def _plan_minutes(self, times: list[float]) -> Plan:
        minutes = self._config.minutes
        step_seconds = expected_step_seconds(times, self._dataset.input_hw, self._config)
        self._evaluate(PLANNING_STEPS)  # to time an evaluation, and to see that it works
        plan, suffices = plan_minutes(self._config, step_seconds, self._evaluation_seconds, self._started)
        if not suffices:
            log.warning(
                f"{minutes:g} minutes are too short to learn much from this data on this machine: an evaluation takes "
                f"{self._evaluation_seconds:.1f} s, a step {step_seconds:.2f} s"
            )
        return plan

    def _save_state(self) -> None:
        self._progress.seconds = time.monotonic() - self._started
        self._folder.save_state(self._progress, self._trainer.state())
        self._saved_at = time.monotonic()

    def _stopped_early(self) -> bool:
        return 0 < self._config.patience <= self._progress.without_better

    def _known_steps(self) -> int | None:
        """Return the length of the run in steps, or None where it depends on a budget in minutes."""
        if self._config.epochs is not None:
            return max(1, round(self._config.epochs * len(self._dataset) / self._batch_size))
        return self._config.steps

    def _advance(self, stop: int, steps: int, evaluate_after: set[int], bar: "tqdm[Any]") -> list[float]:
        """Do the steps up to `stop`, unless a shutdown is requested; return the duration of each in seconds."""
        progress, start = self._progress, self._progress.step
        times: list[float] = []
        tick = time.monotonic()
        # Planning steps are timed with the data loader working beside them, as it will later: it continues past them.
        beyond = stop + _PAST_PLANNING if stop == PLANNING_STEPS else stop
        batches = training_batches(self._dataset, self._batch_size, steps, start, beyond)
        for step, batch in islice(batches, stop - start):
            try:
                terms = self._trainer.step(step, steps, batch)
            except NonFiniteLossError as error:
                raise self._explain(error) from None
            losses = {name: float(part) for name, part in terms.parts.items()}
            progress.losses = {name: progress.losses.get(name, 0.0) + value for name, value in losses.items()}
            progress.steps_since += 1
            progress.step = step + 1
            times.append(time.monotonic() - tick)
            tick += times[-1]
            bar.set_postfix_str(f"{_listed(losses)}, {self._batch_size / times[-1]:.0f} img/s", False)
            bar.update()
            if progress.step in evaluate_after:
                self._report(self._batch_size / median(times))
                if self._stopped_early():
                    log.info(f"early stopping: no better AP in {self._config.patience} evaluations")
                    break
                tick = time.monotonic()
            elif progress.steps and 0 < self._config.save_every * 60 <= time.monotonic() - self._saved_at:
                self._save_state()
            if self._shutdown.requested:
                break
        return times

    def _report(self, images_per_second: float) -> None:
        """Evaluate; write the tables, the weights and a checkpoint."""
        progress = self._progress
        ap = self._evaluate(progress.step)
        is_best = self._update_best(ap)
        losses = {name: total / progress.steps_since for name, total in progress.losses.items()}
        progress.losses, progress.steps_since = {}, 0
        seconds, epoch = time.monotonic() - self._started, round(progress.step / self._steps_per_epoch, 2)
        progress.results.append(self._results_row(epoch, losses, ap))
        timing = {"seconds": round(seconds, 1), "images_per_second": round(images_per_second, 1)}
        progress.timing.append({"step": progress.step} | timing)
        info, float16 = self._info(progress.steps, ap), self._config.save_float16
        self._folder.save(self._trainer.ema.network, info, is_best=is_best, float16=float16)
        self._folder.write_table("results.csv", progress.results)
        self._folder.write_table("timing.csv", progress.timing)
        self._save_state()
        scores = "no val split" if ap is None else f"val AP {ap.AP:.3f} AP50 {ap.AP50:.3f} AP75 {ap.AP75:.3f}"
        log.info(
            f"step {progress.step}/{progress.steps} epoch {epoch:g}, {seconds:.0f} s, "
            f"{images_per_second:.0f} img/s, loss {sum(losses.values()):.2f} ({_listed(losses)}): {scores}"
        )

    def _update_best(self, ap: AveragePrecision | None) -> bool:
        """Record an evaluation; return whether its weights are the best so far (of equal ones, the last)."""
        progress = self._progress
        best = None if progress.best is None else progress.best["AP"]
        is_best = ap is None or best is None or best <= ap.AP
        is_better = ap is None or best is None or best < ap.AP
        progress.best = ap.to_json() if ap is not None and is_best else progress.best
        progress.without_better = 0 if is_better else progress.without_better + 1
        return is_best

    def _results_row(self, epoch: float, losses: Mapping[str, float], ap: AveragePrecision | None) -> dict[str, Any]:
        """Return a row of results.csv."""
        progress = self._progress
        factor = schedule.learning_rate_factor(progress.step - 1, progress.steps, self._config, self._steps_per_epoch)
        numbers = {} if ap is None else {key: value for key, value in ap.to_json().items() if key != "per_class"}
        values = {f"loss_{name}": value for name, value in losses.items()} | numbers
        row = {"step": progress.step, "epoch": epoch, "lr": float(f"{peak_learning_rate(self._config) * factor:.4g}")}
        return row | {name: round(value, 4) for name, value in values.items()}

    def _evaluate(self, step: int) -> AveragePrecision | None:
        if self._val is None:
            return None
        start = time.monotonic()
        runtime = TorchRuntime(self._trainer.ema.network, self._dataset.input_hw, self._device)
        detector = Detector(runtime, self._info(step, None))
        ap = score_split(self._val, detect_letterboxed_split(detector, self._val_images))
        self._evaluation_seconds = time.monotonic() - start
        return ap

    def _info(self, steps: int, ap: AveragePrecision | None) -> WeightsInfo:
        return WeightsInfo(
            model=self._config.model,
            class_names=self._split.class_names,
            category_ids=self._split.category_ids,
            input_hw=self._dataset.input_hw,
            config=asdict(self._config),
            facts={
                "steps": steps,
                "batch": self._batch_size,
                "input_size": list(self._dataset.input_hw),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "machine": platform.machine(),
                "data": self._description,
                "images": len(self._dataset),
                "boxes": self._dataset.ledger.used + self._dataset.ledger.clipped,
                "seconds": round(time.monotonic() - self._started, 1),
                "val": None if ap is None else {"AP": ap.AP, "AP50": ap.AP50},
            },
        )

    def _resolved_settings(self) -> dict[str, object]:
        """Return the values that "auto" was resolved to, and the environment of the run."""
        precision = "bf16" if self._dtype == torch.bfloat16 else "fp32"
        return {
            "steps": self._progress.steps,
            "evaluations": self._progress.evaluations,
            "batch": self._batch_size,
            "input_size": list(self._dataset.input_hw),
            "lr": peak_learning_rate(self._config),
            "precision": precision,
        } | environment_facts(self._device)

    def _explain(self, error: NonFiniteLossError) -> ConfigError:
        names = {annotation.image_id: annotation.image_path for annotation in self._split.annotations}
        losses = {name: float(part) for name, part in error.terms.parts.items()}
        images = [str(names[image_id]) for image_id in error.image_ids]
        what = {"step": error.step, "seed": self._config.seed, "images": images}
        self._folder.write_json("not-finite.json", what | {"losses": {k: str(v) for k, v in losses.items()}})
        return ConfigError(
            f"the loss is not finite at step {error.step} ({_listed(losses)}) with the images:\n  "
            + "\n  ".join(images)
            + "\nTry a lower learning rate (--set lr=...) or --set precision=fp32."
        )


def _listed(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.2f}" for name, value in losses.items())
