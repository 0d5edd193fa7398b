"""Training: from a data set to saved weights, within the time it was given."""

import logging
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from detector.config import PLANNING_STEPS, Config
from detector.data.canvas import canvas_at, choose_canvas
from detector.data.dataset import DetectionDataset
from detector.data.descriptor import open_data
from detector.data.loader import training_batches
from detector.data.split import Split
from detector.engine import schedule
from detector.engine.check import check_shortly
from detector.engine.detect import Detector
from detector.engine.evaluate import detect_canvases, letterboxed, score_split
from detector.engine.pace import choose_batch, mean_step_seconds
from detector.engine.run_folder import RunFolder, check_free
from detector.engine.trainer import NonFiniteLossError, Trainer
from detector.errors import InputError
from detector.metrics.average_precision import AveragePrecision
from detector.model.network import GridNetwork, check_canvas, wants_pooling
from detector.runtime.machine import choose_device, choose_precision, prepare_for_training
from detector.runtime.pytorch import TorchRuntime
from detector.weights_info import WeightsInfo

log = logging.getLogger(__name__)

_DEFAULT_MINUTES = 10.0

_WARMED_UP = 8
"""The first steps of a process prepare kernels and memory; they do not tell how long a step takes."""

_PAST_PLANNING = 4
"""Batches the loader makes for nothing."""

_EVALUATION_SHARE = 0.05
"""Share of a budget in minutes that evaluations may take."""

_MARGIN = 0.05
"""Share of a budget kept free, since machines slow down over a run more often than they speed up."""

_RESERVE = 1.0
"""Seconds kept for saving and for leaving the process."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run left behind.

    Attributes:
        folder: with weights/best.safetensors, weights/last.safetensors, results.csv, config.json, ledger.json.
        steps: optimizer steps done.
        seconds: wall time from the start of the command.
        best: numbers on val of the best weights; None without a val split.
    """

    folder: Path
    steps: int
    seconds: float
    best: AveragePrecision | None


def train(
    data: str | Path,
    config: Config | None = None,
    out: str | Path = "runs/train",
    split: str = "train",
    started: float | None = None,
) -> TrainingResult:
    """Train a detector from scratch.

    Args:
        data: anything `open_data` takes; its val split, where there is one, chooses the best weights.
        config: settings; without a length the run takes ten minutes.
        out: folder for the results; it may exist, but not hold a run.
        split: to learn from; with "trainval" nothing is left to evaluate on, and the last weights are the best.
        started: `time.monotonic()` at the start of the command, from which a budget in minutes counts.

    Raises:
        InputError: the data, settings or folder will not do, or the loss became infinite.
    """
    started = time.monotonic() if started is None else started
    config = config or Config()
    if config.minutes is None and config.epochs is None and config.steps is None:
        config = replace(config, minutes=_DEFAULT_MINUTES)
    check_free(Path(out))
    device = choose_device(config.device)
    prepare_for_training()

    source = open_data(data)
    log.info("%s", source.description)
    train_split = source.read(split)
    val = source.read("val") if split == "train" and "val" in source.split_names else None
    canvas_hw = choose_canvas(config, train_split.annotations)
    for step in (0, PLANNING_STEPS - 1):
        check_canvas(canvas_at(canvas_hw, step, PLANNING_STEPS, config), config)
    if config.patience and val is None:
        raise InputError("patience: there is no val split to see a better AP on; set patience=0")
    dataset = DetectionDataset(train_split, canvas_hw, config)
    for read in (train_split, val) if val else (train_split,):
        log.info("%s: %d pictures, %s", read.name, len(read.annotations), read.ledger.summary())
        for entry in read.ledger.entries[:10]:
            log.info("  %s", entry)
        read.ledger.check(config.allow_dropped)
    folder = RunFolder(Path(out), config.half)
    folder.write_json("ledger.json", {read.name: read.ledger.to_json() for read in (train_split, val) if read})
    return _Run(config, device, folder, dataset, train_split, val, source.description, started).train()


class _Run:
    """The course of one training run: plan, steps, evaluations, saving."""

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
    ) -> None:
        self._config, self._folder, self._dataset, self._split, self._val = config, folder, dataset, split, val
        self._description, self._started, self._device = description, started, device
        self._batch_size = choose_batch(config, len(dataset))
        self._val_canvases = list(letterboxed(val, dataset.canvas_hw)) if val else []
        self._best: AveragePrecision | None = None
        self._evaluation_seconds = 0.0
        self._evaluations_without_better = 0
        self._losses: dict[str, float] = {}  # sums since the last evaluation
        self._steps_since = 0
        self._done = 0
        dtype = choose_precision(config.precision, device)
        torch.manual_seed(config.seed)
        network = GridNetwork(
            config,
            len(split.class_names),
            *dataset.colour_statistics(),
            pooled=wants_pooling(dataset.canvas_hw),
        )
        self._steps_per_epoch = len(dataset) / self._batch_size
        self._trainer = Trainer(network, config, device, dtype, self._steps_per_epoch)
        height, width = dataset.canvas_hw
        place = "in memory" if dataset.in_memory else "read anew each time"
        log.info(
            f"{config.model} network, {sum(p.numel() for p in network.parameters()):,} parameters; "
            f"canvas {width}x{height} (width x height), batch {self._batch_size}, "
            f"{str(dtype).removeprefix('torch.')} on {device}, {torch.get_num_threads()} threads, pictures {place}"
        )

    def train(self) -> TrainingResult:
        """Do the whole run."""
        steps = self._known_steps()
        splits = [self._split, self._val] if self._val else [self._split]
        for finding in check_shortly(splits, self._dataset, self._trainer.network, self._batch_size):
            if finding.verdict != "ok":
                log.warning("%s", finding)
        with tqdm(total=steps, unit="step", disable=None, dynamic_ncols=True) as bar:
            done = 0
            if steps is None:
                done = PLANNING_STEPS
                times = self._advance(0, done, done, set(), bar)
                steps, evaluations = self._plan(self._expected_step(times))
                bar.total = steps
            else:
                evaluations = self._evaluations(int(steps * self._batch_size / len(self._dataset) / 2))
            after = set(schedule.evaluation_steps(steps, evaluations))
            self._folder.write_json("config.json", asdict(self._config) | self._settled(steps))
            log.info(f"{steps} steps, {steps * self._batch_size / len(self._dataset):.1f} epochs, "
                     f"{evaluations} evaluations; to repeat this run: --set steps={steps}")  # fmt: skip
            self._advance(done, steps, steps, after, bar)
        seconds = time.monotonic() - self._started
        log.info(f"done: {self._done} steps in {seconds:.1f} s; weights in {self._folder.path / 'weights'}")
        return TrainingResult(self._folder.path, self._done, seconds, self._best)

    def _known_steps(self) -> int | None:
        """Return the length of the run in steps, or None where it follows from a budget in minutes."""
        if self._config.epochs is not None:
            return max(1, round(self._config.epochs * len(self._dataset) / self._batch_size))
        return self._config.steps

    def _expected_step(self, times: list[float]) -> float:
        """Return the mean seconds of a step over the whole run, from those of the planning steps."""
        canvas_hw, config = self._dataset.canvas_hw, self._config
        first_full = next(
            step for step in range(PLANNING_STEPS) if canvas_at(canvas_hw, step, PLANNING_STEPS, config) == canvas_hw
        )
        if first_full == 0:
            return median(times[_WARMED_UP:])
        # The last planning steps show what the full canvas costs; the first of these prepares its kernels.
        small, large = median(times[_WARMED_UP:first_full]), median(times[first_full + 1 : PLANNING_STEPS])
        return mean_step_seconds(small, large, canvas_hw, config)

    def _plan(self, step_seconds: float) -> tuple[int, int]:
        """Turn what is left of the budget into numbers of steps and evaluations."""
        assert self._config.minutes is not None
        self._evaluate(PLANNING_STEPS)  # says what an evaluation costs, and that it works
        budget = self._config.minutes * 60
        left = budget * (1 - _MARGIN) - _RESERVE - (time.monotonic() - self._started)
        affordable = int(_EVALUATION_SHARE * budget / max(self._evaluation_seconds, 1e-3))
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

    def _advance(self, start: int, stop: int, steps: int, evaluate_after: set[int], bar: "tqdm[Any]") -> list[float]:
        """Do the steps from `start` to `stop`; return the seconds each took."""
        times = []
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
            self._losses = {name: self._losses.get(name, 0.0) + value for name, value in losses.items()}
            self._steps_since += 1
            self._done = step + 1
            times.append(time.monotonic() - tick)
            tick += times[-1]
            bar.set_postfix_str(f"{_listed(losses)}, {self._batch_size / times[-1]:.0f} img/s", False)
            bar.update()
            if step + 1 in evaluate_after:
                self._report(step + 1, steps, self._batch_size / median(times))
                if 0 < self._config.patience <= self._evaluations_without_better:
                    log.info(f"no better AP in {self._config.patience} evaluations: stopped early")
                    break
                tick = time.monotonic()
        return times

    def _report(self, step: int, steps: int, images_per_second: float) -> None:
        """Evaluate, write a line, save."""
        ap = self._evaluate(step)
        is_best = ap is None or self._best is None or ap.AP >= self._best.AP
        is_better = ap is None or self._best is None or ap.AP > self._best.AP
        self._best = ap if is_best else self._best
        self._evaluations_without_better = 0 if is_better else self._evaluations_without_better + 1
        losses = {name: total / self._steps_since for name, total in self._losses.items()}
        self._losses, self._steps_since = {}, 0
        row = {
            "step": step,
            "epoch": round(step * self._batch_size / len(self._dataset), 2),
            "seconds": round(time.monotonic() - self._started, 1),
            "images_per_second": round(images_per_second, 1),
            "lr_share": round(schedule.learning_rate(step - 1, steps, self._config, self._steps_per_epoch), 4),
        }
        row |= {f"loss_{name}": round(value, 4) for name, value in losses.items()}
        row |= {} if ap is None else {key: round(value, 4) for key, value in ap.to_json().items() if key != "per_class"}
        self._folder.add_result(row)
        self._folder.save(self._trainer.average.network, self._info(steps, ap), is_best)
        scores = "no val split" if ap is None else f"val AP {ap.AP:.3f} AP50 {ap.AP50:.3f} AP75 {ap.AP75:.3f}"
        log.info(
            f"step {step}/{steps} epoch {row['epoch']:g}, {row['seconds']:.0f} s, {images_per_second:.0f} img/s, "
            f"loss {sum(losses.values()):.2f} ({_listed(losses)}): {scores}"
        )

    def _evaluate(self, step: int) -> AveragePrecision | None:
        if self._val is None:
            return None
        start = time.monotonic()
        runtime = TorchRuntime(self._trainer.average.network, self._dataset.canvas_hw, self._device)
        detector = Detector(runtime, self._info(step, None))
        ap = score_split(self._val, detect_canvases(detector, self._val_canvases))
        self._evaluation_seconds = time.monotonic() - start
        return ap

    def _info(self, steps: int, ap: AveragePrecision | None) -> WeightsInfo:
        return WeightsInfo(
            model=self._config.model,
            class_names=self._split.class_names,
            category_ids=self._split.category_ids,
            canvas_hw=self._dataset.canvas_hw,
            config=asdict(self._config),
            facts=self._settled(steps)
            | {
                "data": self._description,
                "pictures": len(self._dataset),
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
            "canvas": list(self._dataset.canvas_hw),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        }

    def _explain(self, error: NonFiniteLossError) -> InputError:
        names = {annotation.image_id: annotation.image_path for annotation in self._split.annotations}
        losses = {name: float(part) for name, part in error.terms.parts.items()}
        return InputError(
            f"the loss is not finite at step {error.step} ({_listed(losses)}) with the pictures:\n  "
            + "\n  ".join(str(names[image_id]) for image_id in error.image_ids)
            + "\nA lower learning rate (--set lr=...) or --set precision=fp32 may help."
        )


def _listed(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.2f}" for name, value in losses.items())
