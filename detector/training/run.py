"""The course of one training run: plan, steps, evaluations, saving; from the start or from a saved state."""

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

import cv2
import numpy as np
import torch
from tqdm import tqdm

from detector.annotation import annotation_bytes
from detector.config import PLANNING_STEPS, Config
from detector.data.split import Split
from detector.diagnose.short_check import short_check
from detector.errors import InputError
from detector.evaluating.evaluate import detect_letterboxed, letterboxed, score_split
from detector.graceful_shutdown import GracefulShutdown
from detector.loader.dataset import DetectionDataset
from detector.loader.input_size import input_size_at
from detector.loader.loader import training_batches
from detector.metrics.average_precision import AveragePrecision
from detector.model.checkpoint import copy_weights
from detector.model.network import GridNetwork, uses_spp
from detector.predict.detector import Detector
from detector.runtime.hardware import choose_precision
from detector.runtime.pytorch import TorchRuntime
from detector.training import schedule
from detector.training.run_folder import RunFolder
from detector.training.run_state import Progress
from detector.training.time_budget import choose_batch, mean_step_seconds
from detector.training.trainer import NonFiniteLossError, Trainer
from detector.version import VERSION
from detector.weights_info import WeightsInfo

log = logging.getLogger(__name__)

_WARMED_UP = 8
"""The first steps of a process prepare kernels and memory; they do not tell how long a step takes."""

_PAST_PLANNING = 4
"""Batches the loader makes for nothing."""

_EVALUATION_FRACTION = 0.05
"""Share of a budget in minutes that evaluations may take."""

_MARGIN = 0.05
"""Share of a budget kept free, since machines slow down over a run more often than they speed up."""

_FAR_OVER = 1.15
"""Share of a budget in minutes beyond which its overrun is worth a word."""

_RESERVE = 1.0
"""Seconds kept for saving and for leaving the process."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run left behind.

    Attributes:
        folder: with weights/best.safetensors, weights/last.safetensors, results.csv, config.json, ledger.json
            and more.
        steps: optimizer steps done.
        seconds: wall time from the start of the command.
        best: numbers on val of the best weights; None without a val split.
    """

    folder: Path
    steps: int
    seconds: float
    best: AveragePrecision | None


class TrainingRun:
    """One run.

    Args:
        config: settings.
        device: where to compute.
        folder: for the results.
        dataset: to learn from.
        split: the same, as read.
        val: to evaluate on; None: the last weights are the best.
        description: of the data.
        started: `time.monotonic()` at its start; for one that goes on, at that moment.
        weights: to begin with instead of random ones; of the same make.
        all_classes: their last layers too, since the classes are the same.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        folder: RunFolder,
        dataset: DetectionDataset,
        split: Split,
        val: Split | None,
        description: str,
        started: float,
        weights: GridNetwork | None = None,
        all_classes: bool = True,
    ) -> None:
        self._config, self._folder, self._dataset, self._split, self._val = config, folder, dataset, split, val
        self._description, self._started, self._device = description, started, device
        self._batch_size = choose_batch(config, len(dataset))
        self._val_inputs = list(letterboxed(val, dataset.input_hw)) if val else []
        self._progress = Progress(steps=0, evaluations=0)
        self._evaluation_seconds = 0.0
        self._saved_at = time.monotonic()
        self._stop = GracefulShutdown()
        dtype = choose_precision(config.precision, device)
        torch.manual_seed(config.seed)
        network = GridNetwork(
            config,
            len(split.class_names),
            *dataset.color_statistics(),
            spp=uses_spp(dataset.input_hw),
        )
        self._is_fresh = weights is None
        if weights is not None:
            copy_weights(network, weights, all_classes)
        self._steps_per_epoch = len(dataset) / self._batch_size
        self._trainer = Trainer(network, config, device, dtype, self._steps_per_epoch)
        height, width = dataset.input_hw
        place = "in memory" if dataset.in_memory else "read anew each time"
        log.info(
            f"{config.model} network, {sum(p.numel() for p in network.parameters()):,} parameters; "
            f"canvas {width}x{height} (width x height), batch {self._batch_size}, "
            f"{str(dtype).removeprefix('torch.')} on {device}, {torch.get_num_threads()} threads, images {place}"
        )

    def restore(self, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from a saved state instead of the start."""
        self._progress = progress
        self._trainer.restore(tensors)
        self._started = time.monotonic() - progress.seconds
        log.info(f"going on after step {progress.step} of {progress.steps}")

    def facts(self) -> dict[str, object]:
        """Return what the last bit of a result depends on, besides the settings."""
        inputs = b"".join(
            annotation_bytes(annotation) + zlib.crc32(letterboxed.data).to_bytes(4)
            for annotation, _, letterboxed in self._val_inputs
        )
        return {
            "data": f"{self._dataset.fingerprint}-{zlib.crc32(inputs):08x}",
            "detector": VERSION,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "threads": torch.get_num_threads(),
            "device": str(self._device),
            "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        }

    def train(self) -> TrainingResult:
        """Do the whole run, or what is left of it."""
        progress = self._progress
        total = progress.steps or self._known_steps()
        with self._stop, tqdm(total=total, initial=progress.step, unit="step", disable=None, dynamic_ncols=True) as bar:
            if not progress.steps:
                self._look()
                self._make_plan(total, bar)
            after = set(schedule.evaluation_steps(progress.steps, progress.evaluations))
            if not self._stop.requested and not self._out_of_patience():
                self._advance(progress.steps, progress.steps, after, bar)
        seconds = time.monotonic() - self._started
        best = None if progress.best is None else AveragePrecision(**progress.best)
        if self._stop.requested and progress.step < progress.steps and not self._out_of_patience():
            self._save_state()
            log.info(f"stopped after step {progress.step}; to go on: detector train --resume {self._folder.path}")
            raise KeyboardInterrupt  # whoever called wants to stop too
        log.info(f"done: {progress.step} steps in {seconds:.1f} s; weights in {self._folder.path / 'weights'}")
        if self._config.minutes is not None and seconds > _FAR_OVER * self._config.minutes * 60:
            log.warning(
                f"that is more than the {self._config.minutes:g} minutes given: the machine became slower than in the "
                f"first {PLANNING_STEPS} steps, by which the length was fixed"
            )
        return TrainingResult(self._folder.path, progress.step, seconds, best)

    def _look(self) -> None:
        """Say what a short check finds."""
        splits = [self._split, self._val] if self._val else [self._split]
        fresh = self._trainer.network if self._is_fresh else None
        for finding in short_check(splits, self._dataset, fresh, self._batch_size):
            if finding.verdict != "ok":
                log.warning("%s", finding)

    def _make_plan(self, steps: int | None, bar: "tqdm[Any]") -> None:
        """Settle the number of steps and evaluations, where need be by the first steps."""
        progress = self._progress
        if steps is None:
            times = self._advance(PLANNING_STEPS, PLANNING_STEPS, set(), bar)
            if self._stop.requested:
                raise KeyboardInterrupt  # nothing is worth keeping yet
            progress.steps, progress.evaluations = self._plan(self._expected_step(times))
            bar.total = progress.steps
        else:
            progress.steps = steps
            progress.evaluations = self._evaluations(int(steps * self._batch_size / len(self._dataset) / 2))
        self._folder.write_json("config.json", asdict(self._config) | self._settled(progress.steps))
        log.info(f"{progress.steps} steps, {progress.steps / self._steps_per_epoch:.1f} epochs, "
                 f"{progress.evaluations} evaluations; to repeat this run: --set steps={progress.steps}")  # fmt: skip
        if progress.step:
            self._save_state()

    def _save_state(self) -> None:
        self._progress.seconds = time.monotonic() - self._started
        self._folder.save_state(self._progress, self._trainer.state())
        self._saved_at = time.monotonic()

    def _out_of_patience(self) -> bool:
        return 0 < self._config.patience <= self._progress.without_better

    def _known_steps(self) -> int | None:
        """Return the length of the run in steps, or None where it follows from a budget in minutes."""
        if self._config.epochs is not None:
            return max(1, round(self._config.epochs * len(self._dataset) / self._batch_size))
        return self._config.steps

    def _expected_step(self, times: list[float]) -> float:
        """Return the mean seconds of a step over the whole run, from those of the planning steps."""
        input_hw, config = self._dataset.input_hw, self._config
        first_full = next(
            step for step in range(PLANNING_STEPS) if input_size_at(input_hw, step, PLANNING_STEPS, config) == input_hw
        )
        if first_full == 0:
            return median(times[_WARMED_UP:])
        # The last planning steps show what the full canvas costs; the first of these prepares its kernels.
        small, large = median(times[_WARMED_UP:first_full]), median(times[first_full + 1 : PLANNING_STEPS])
        return mean_step_seconds(small, large, input_hw, config)

    def _plan(self, step_seconds: float) -> tuple[int, int]:
        """Turn what is left of the budget into numbers of steps and evaluations."""
        assert self._config.minutes is not None
        self._evaluate(PLANNING_STEPS)  # says what an evaluation costs, and that it works
        budget = self._config.minutes * 60
        left = budget * (1 - _MARGIN) - _RESERVE - (time.monotonic() - self._started)
        affordable = int(_EVALUATION_FRACTION * budget / max(self._evaluation_seconds, 1e-3))
        evaluations = self._evaluations(affordable)
        more = max(1, int((left - evaluations * self._evaluation_seconds) / step_seconds))
        if more <= PLANNING_STEPS:
            log.warning(
                f"{self._config.minutes:g} minutes are too short to learn much from this data on this machine: an "
                f"evaluation takes {self._evaluation_seconds:.1f} s, a step {step_seconds:.2f} s"
            )
        return PLANNING_STEPS + more, evaluations

    def _evaluations(self, sensible: int) -> int:
        """Return how often to evaluate: as set, or `sensible` within 1..20."""
        return min(20, max(1, sensible)) if self._config.evaluations == "auto" else self._config.evaluations

    def _advance(self, stop: int, steps: int, evaluate_after: set[int], bar: "tqdm[Any]") -> list[float]:
        """Do the steps up to `stop`, unless somebody wants to end it; return the seconds each took."""
        progress, start = self._progress, self._progress.step
        times: list[float] = []
        tick = time.monotonic()
        # Planning steps are timed with the loader at work beside them, as it will be all along: it goes on past them.
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
                if self._out_of_patience():
                    log.info(f"no better AP in {self._config.patience} evaluations: stopped early")
                    break
                tick = time.monotonic()
            elif progress.steps and 0 < self._config.save_every * 60 <= time.monotonic() - self._saved_at:
                self._save_state()
            if self._stop.requested:
                break
        return times

    def _report(self, images_per_second: float) -> None:
        """Evaluate, write the lines, the weights and the state."""
        progress = self._progress
        ap = self._evaluate(progress.step)
        best = None if progress.best is None else progress.best["AP"]
        is_best = ap is None or best is None or best <= ap.AP
        is_better = ap is None or best is None or best < ap.AP
        progress.best = ap.to_json() if ap is not None and is_best else progress.best
        progress.without_better = 0 if is_better else progress.without_better + 1
        losses = {name: total / progress.steps_since for name, total in progress.losses.items()}
        progress.losses, progress.steps_since = {}, 0
        numbers = {} if ap is None else {key: value for key, value in ap.to_json().items() if key != "per_class"}
        lr_share = schedule.learning_rate(progress.step - 1, progress.steps, self._config, self._steps_per_epoch)
        row = {"step": progress.step, "epoch": round(progress.step / self._steps_per_epoch, 2)}
        values = {"lr_share": lr_share} | {f"loss_{name}": value for name, value in losses.items()} | numbers
        progress.results.append(row | {name: round(value, 4) for name, value in values.items()})
        seconds = time.monotonic() - self._started
        timing = {"seconds": round(seconds, 1), "images_per_second": round(images_per_second, 1)}
        progress.timing.append({"step": progress.step} | timing)
        average, info = self._trainer.average.network, self._info(progress.steps, ap)
        self._folder.save(average, info, is_best, self._config.save_float16)
        self._folder.write_table("results.csv", progress.results)
        self._folder.write_table("timing.csv", progress.timing)
        self._save_state()
        scores = "no val split" if ap is None else f"val AP {ap.AP:.3f} AP50 {ap.AP50:.3f} AP75 {ap.AP75:.3f}"
        log.info(
            f"step {progress.step}/{progress.steps} epoch {row['epoch']:g}, {seconds:.0f} s, "
            f"{images_per_second:.0f} img/s, loss {sum(losses.values()):.2f} ({_listed(losses)}): {scores}"
        )

    def _evaluate(self, step: int) -> AveragePrecision | None:
        if self._val is None:
            return None
        start = time.monotonic()
        runtime = TorchRuntime(self._trainer.average.network, self._dataset.input_hw, self._device)
        detector = Detector(runtime, self._info(step, None))
        ap = score_split(self._val, detect_letterboxed(detector, self._val_inputs))
        self._evaluation_seconds = time.monotonic() - start
        return ap

    def _info(self, steps: int, ap: AveragePrecision | None) -> WeightsInfo:
        return WeightsInfo(
            model=self._config.model,
            class_names=self._split.class_names,
            category_ids=self._split.category_ids,
            input_hw=self._dataset.input_hw,
            config=asdict(self._config),
            facts=self._settled(steps)
            | {
                "data": self._description,
                "images": len(self._dataset),
                "boxes": self._split.ledger.used + self._split.ledger.clipped,
                "seconds": round(time.monotonic() - self._started, 1),
                "val": None if ap is None else {"AP": ap.AP, "AP50": ap.AP50},
            },
        )

    def _settled(self, steps: int) -> dict[str, object]:
        """Return what "auto" came to, and on what."""
        return {
            "steps": steps,
            "batch": self._batch_size,
            "input_size": list(self._dataset.input_hw),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        }

    def _explain(self, error: NonFiniteLossError) -> InputError:
        names = {annotation.image_id: annotation.image_path for annotation in self._split.annotations}
        losses = {name: float(part) for name, part in error.terms.parts.items()}
        images = [str(names[image_id]) for image_id in error.image_ids]
        what = {"step": error.step, "seed": self._config.seed, "images": images}
        self._folder.write_json("not-finite.json", what | {"losses": {k: str(v) for k, v in losses.items()}})
        return InputError(
            f"the loss is not finite at step {error.step} ({_listed(losses)}) with the images:\n  "
            + "\n  ".join(images)
            + "\nA lower learning rate (--set lr=...) or --set precision=fp32 may help."
        )


def _listed(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.2f}" for name, value in losses.items())
