"""A training run, from the start or from a checkpoint: plan the steps, do the steps, evaluate, save."""

import contextlib
import logging
import math
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from detector.config import PLANNING_STEPS
from detector.data.split import Split
from detector.detections import Detections, coco_results
from detector.diagnose.short_check import short_check
from detector.errors import ConfigError, LabelError
from detector.evaluating.evaluate import (
    EVALUATION_OPTIONS,
    detect_letterboxed_split,
    ground_truth_of,
    score_split,
)
from detector.evaluating.low_ap import Trained, low_ap_advice
from detector.graceful_shutdown import GracefulShutdown
from detector.html_table import html_table
from detector.loader.batch import Batch
from detector.loader.class_balance import balance_lines, count_objects
from detector.loader.dataset import DetectionDataset
from detector.loader.input_size import input_stages, stage_size_at
from detector.loader.loader import PseudoLabeled, training_batches
from detector.metrics.average_precision import AveragePrecision
from detector.metrics.matches import match_detections
from detector.metrics.seeds import ApHalves, ap_halves
from detector.model.checkpoint import tensors_to_save
from detector.options import BATCH_SIZE
from detector.predict.detector import Detector
from detector.progress import progress_bar
from detector.runtime.hardware import choose_precision, device_memory_errors
from detector.runtime.pytorch import TorchRuntime
from detector.step_plan import StepPlan
from detector.training.data_facts import data_facts
from detector.training.distributed import ALONE, Processes
from detector.training.environment import environment_facts
from detector.training.events import TrainingEvaluation, TrainingStep
from detector.training.observers import NOBODY, Observation, Observers
from detector.training.pseudo_labels import (
    affordable_passes,
    choose_images,
    detect_unlabeled,
    pseudo_labels,
    with_pseudo_labels,
)
from detector.training.results import resolved_settings, results_row, update_best, weights_info
from detector.training.run_folder import RunFolder
from detector.training.run_inputs import RunInputs
from detector.training.run_state import Progress, best_tensors, with_best
from detector.training.sync_batch_norm import synchronize
from detector.training.time_budget import (
    CHECKS,
    OVERRUN,
    RunTimes,
    TimeBudget,
    choose_evaluations,
    expected_times,
)
from detector.training.trainer import NonFiniteLossError, Trainer
from detector.training.unlabeled import NAME, UnlabeledImages
from detector.weights_info import to_metadata
from detector.wording import distinct_names, metric, plural

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger(__name__)

_PAST_PLANNING = 4
"""Number of batches that the data loader prepares after those of the planning steps, and that are not used."""

_UNPLANNED = StepPlan.fixed(10**9)
"""The plan during the planning steps, in which nothing depends on the number of steps."""

_FEW_STEPS = 200
"""A run with a length in minutes that is too short is told what so many steps would take."""

_MIDDLE_STEPS = 6
"""Number of steps that are timed at the middle input size."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        folder: output folder: weights/best.safetensors, weights/last.safetensors, results.csv, config.json, ledger.json
            and more.
        steps: number of optimizer steps that were done.
        seconds: wall time from the start of the run, including the time before an interruption.
        best: average precision of the best weights on val; None without a val split.
        stop_requested: whether Ctrl-C or SIGTERM came in or after the last step. The run is complete, but a program
            that would start another one must stop.
    """

    folder: Path
    steps: int
    seconds: float
    best: AveragePrecision | None
    stop_requested: bool = False

    @property
    def weights(self) -> Path:
        """Path of the best weights, for `Detector.load`."""
        return self.folder / "weights" / "best.safetensors"

    def __str__(self) -> str:
        """Return the result as a few lines of text: weights, AP, AP50, steps and time."""
        return "\n".join(f"{name + ':':13} {value}" for name, value in self._rows())

    def _repr_html_(self) -> str:
        """Return the result as an HTML table, which notebooks show."""
        return html_table((), self._rows())

    def _rows(self) -> list[tuple[str, object]]:
        """Return name and value of what a user wants to know first."""
        ap, ap50 = ("n/a: no val split",) * 2 if self.best is None else map(metric, (self.best.AP, self.best.AP50))
        return [
            ("folder", self.folder),
            ("best weights", self.weights),
            ("AP on val", ap),
            ("AP50 on val", ap50),
            ("steps", self.steps),
            ("time", f"{self.seconds:.0f} s"),
        ]


class TrainingRun:
    """A run of the command `train`: does the steps, evaluates, and writes the output folder.

    Args:
        inputs: settings, data and initial weights.
        folder: output folder.
        started: `time.monotonic()` at the start of the run; for a resumed run, at the start of this process.
        processes: the processes that do the run together. They must call the same methods in the same order.
        observers: callbacks and loggers, which only the first process tells about the run.
    """

    def __init__(
        self,
        inputs: RunInputs,
        folder: RunFolder,
        started: float,
        processes: Processes = ALONE,
        observers: Observers = NOBODY,
    ) -> None:
        self._inputs, self._folder, self._started, self._processes = inputs, folder, started, processes
        self._config, self._dataset, self._val = inputs.config, inputs.dataset, inputs.val
        self._batch_size, self._steps_per_epoch = inputs.batch_size, inputs.steps_per_epoch
        self._progress = Progress()
        self._budget: TimeBudget | None = None
        self._best: dict[str, torch.Tensor] = {}
        self._found: dict[int, Detections] = {}
        self._saved_at = time.monotonic()
        self._pseudo: PseudoLabeled | None = None
        self._shutdown = GracefulShutdown()
        self._observation = Observation(observers if processes.is_first else NOBODY, folder)
        self._dtype = choose_precision(self._config.precision, inputs.device)
        network = inputs.make_network()
        self._trainer = Trainer(
            network,
            self._config,
            inputs.device,
            self._dtype,
            self._steps_per_epoch,
            processes,
            inputs.class_weights(),
        )
        self._log_setup()
        for line in balance_lines(self._dataset.annotations, inputs.split.class_names, self._config):
            log.info("%s", line)

    def restore(self, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set the state of the run to a checkpoint, so that `train` continues there."""
        self._progress = progress
        self._trainer.restore(tensors)
        self._best = best_tensors(tensors)
        self._started = time.monotonic() - progress.seconds
        if progress.unlabeled_sha256 and self._inputs.unlabeled is not None:
            self._read_pseudo_labels(self._inputs.unlabeled)
        log.info(f"resuming after step {progress.step} of {progress.steps}")
        if progress.processes != self._processes.size:
            log.info(
                f"the run continues with {plural(self._processes.size, 'process')} instead of {progress.processes}: "
                "with the same plan and batches, but sums are added in another order, so results differ in their last "
                "bits"
            )

    @property
    def inputs(self) -> RunInputs:
        """The inputs of the run."""
        return self._inputs

    def facts(self) -> dict[str, object]:
        """Return what the trained weights depend on besides the settings: checksums of the data, and the environment.

        The keys are those of `environment.EFFECTS`.
        """
        return data_facts(self._inputs) | environment_facts(self._inputs.device)

    def train(self, run: str) -> TrainingResult:
        """Do all steps of the run, or all steps after the checkpoint; return the result.

        Args:
            run: hash of the content of run.json, for the checkpoints.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint has been saved.
            ConfigError: the loss became infinite or NaN, or the GPU does not have enough memory.
            Exception: a callback raised it. A checkpoint has been saved.
        """
        with self._observation.of_run(self._progress.step, self._inputs.val_images):
            return self._train(run)
        raise AssertionError  # `of_run` raises the exception of a callback

    def _train(self, run: str) -> TrainingResult:
        progress = self._progress
        progress.run, progress.processes = run, self._processes.size
        self._start_together()
        total = progress.steps or self._inputs.steps
        bar = progress_bar(total=total, initial=progress.step, unit="step")
        with device_memory_errors(self._memory_advice()), self._shutdown, bar:
            if not progress.steps:
                self._make_plan(total, bar)
            elif self._config.minutes is not None and progress.step_seconds:
                self._resume_budget(self._config.minutes)
            while progress.step < progress.steps and not self._must_stop() and not self._stopped_early():
                if progress.step == (labeling := self._labeling_step()):
                    self._label_images()
                else:  # until the labeling or the end, or until the plan changes
                    self._advance(progress.plan, labeling or progress.steps, bar)
                bar.total = progress.steps
        if progress.step == progress.steps and self._labeling_step() is not None:
            log.warning(f"{NAME}: not used, because the run of {plural(progress.steps, 'step')} is too short")
        if progress.step < progress.steps and not self._stopped_early():
            self._processes.agree_to_stop()
            self._save_state()
            log.info(f"stopped after step {progress.step}; to resume: detector train --resume {self._folder.path}")
            raise KeyboardInterrupt  # the caller must stop too
        if self._shutdown.requested:
            log.info("the run was finished when it was asked to stop: there is nothing to resume")
        return self._result()

    def _start_together(self) -> None:
        """Give all processes the state of the first, and let batch norm see the whole batch."""
        self._processes.copy_first(self._trainer.state().values())
        synchronize(self._trainer.network, self._processes, self._batch_size)

    def _must_stop(self) -> bool:
        """Return whether a shutdown is requested or a callback has failed, in any of the processes."""
        return self._processes.any(self._shutdown.requested or self._observation.error is not None)

    def _labeling_step(self) -> int | None:
        """Return the number of steps before the labeling of the unlabeled images; None if no labeling is due."""
        progress, plan = self._progress, self._progress.plan
        if self._inputs.unlabeled is None or progress.unlabeled_sha256:
            return None
        left = 1 - self._config.unlabeled_start
        return next(step for step in range(max(1, progress.step), plan.steps + 1) if plan.left_after(step) <= left)

    def _label_images(self) -> None:
        """Detect in the unlabeled images with the averaged weights; write unlabeled.json and a checkpoint.

        Nothing is written if a shutdown is requested meanwhile: the resumed run does the labeling again.
        """
        images = self._inputs.unlabeled
        assert images is not None
        start, progress = time.monotonic(), self._progress
        passes = affordable_passes(progress.steps, self._batch_size)
        indices, tta = choose_images(len(images.dataset), passes)
        own = [indices[place] for place in self._processes.share(len(indices), BATCH_SIZE)]
        found = detect_unlabeled(self._detector(), images.dataset, own, tta=tta, stop=lambda: self._shutdown.requested)
        if self._processes.any(found is None):
            return
        assert found is not None
        all_found = self._processes.join(found, len(indices), BATCH_SIZE)

        def write() -> str:
            labels = pseudo_labels(all_found, indices, images, self._dataset.annotations, self._config.unlabeled_score)
            return self._folder.write_unlabeled({"step": progress.step, "flip_tta": tta} | labels)

        progress.unlabeled_sha256 = self._processes.from_first(write)
        self._read_pseudo_labels(images)
        progress.labeling_seconds = 0.0
        log.info(f"the labeling took {time.monotonic() - start:.1f} s")
        self._save_state()

    def _read_pseudo_labels(self, images: UnlabeledImages) -> None:
        """Use the images with pseudo-labels in unlabeled.json for the batches from the step of the labeling on."""
        values = self._processes.from_first(lambda: self._folder.read_unlabeled(self._progress.unlabeled_sha256))
        indices, annotations = with_pseudo_labels(values, images)
        if not indices:
            return
        per_batch = round(self._config.unlabeled_fraction * self._batch_size)
        # Full augmentation from the start: this is what the network can learn from its own detections.
        dataset = images.dataset.select(
            indices, annotations, replace(self._config, augment_ramp=0.0, repeat_factor=0.0, max_background=1.0)
        )
        self._pseudo = PseudoLabeled(dataset, values["step"], min(self._batch_size - 1, max(1, per_batch)))

    def val_halves(self) -> ApHalves | None:
        """Return AP of the last evaluation on val and on random halves of its images; None if val has no objects."""
        if self._val is None:
            return None
        rows = coco_results(self._found, self._val.category_ids)
        matches = match_detections(ground_truth_of(self._val), rows)
        names = dict(zip(self._val.category_ids, self._val.class_names, strict=True))
        return ap_halves(matches, names, threads=torch.get_num_threads())

    def _memory_advice(self) -> str:
        """Return how to train with less memory of the GPU."""
        return (
            f"start a run with a smaller batch size (--batch {max(self._batch_size // 2, 1)}; now {self._batch_size}), "
            f"a smaller input size (--imgsz; now {max(self._dataset.input_hw)}), or a smaller network (--model; now "
            f"{self._config.model})"
        )

    def _log_setup(self) -> None:
        """Log the network, input size, batch size, device and threads of the run."""
        height, width = self._dataset.input_hw
        place = "in memory" if self._dataset.in_memory else "read from disk when needed"
        parameters = sum(p.numel() for p in self._trainer.network.parameters())
        log.info(
            f"{self._config.model} network, {parameters:,} parameters; "
            f"input {width}x{height} (width x height), batch size {self._batch_size}, "
            f"{str(self._dtype).removeprefix('torch.')} on {self._inputs.device}, "
            f"{plural(torch.get_num_threads(), 'thread')}, "
            f"images {place}"
        )

    def check_inputs(self) -> None:
        """Log each problem that a short check of data and network finds.

        The initial loss is checked if the layers that predict the classes start from random weights.

        Raises:
            LabelError: a finding that follows from the data alone has the verdict "stop", and `ignore_check` is False.
        """
        splits = [self._inputs.split, self._val] if self._val else [self._inputs.split]
        has_fresh_output = self._inputs.weights is None or not self._inputs.same_classes
        fresh = self._trainer.network if has_fresh_output else None
        with device_memory_errors(self._memory_advice()):
            findings = short_check(splits, self._dataset, fresh, self._batch_size)
        refuses = not self._config.ignore_check
        stops = [finding for finding in findings if refuses and finding.from_data and finding.verdict == "stop"]
        for finding in findings:
            if finding.verdict != "ok" and finding not in stops:
                log.warning("%s", finding)
        if stops:
            raise LabelError(
                "the check of the data says stop:",
                *(f"  {finding}" for finding in stops),
                "To see all findings: detector check. To train anyway: --ignore-check",
            )

    def _make_plan(self, steps: int | None, bar: "tqdm[Any]") -> None:
        """Set the number of steps and evaluations of the run, and write config.json.

        Args:
            steps: number of steps; None: do the planning steps, and compute the number from their duration.
            bar: progress bar.
        """
        progress = self._progress
        if steps is None:
            times = self._advance(_UNPLANNED, PLANNING_STEPS, bar)
            if self._must_stop():
                self._processes.agree_to_stop()
                raise KeyboardInterrupt  # no checkpoint: so few steps are not worth resuming
            steps, progress.evaluations = self._plan_minutes(times)
            bar.total = steps
            repeat = "the number of steps changes if the speed does"
        else:
            affordable = int(steps * self._batch_size / len(self._dataset) / 2)
            progress.evaluations = choose_evaluations(self._config, affordable)
            repeat = f"to repeat this run: --set steps={steps}"
        progress.plan_changes = [(0, steps)]
        self._write_settings()
        log.info(
            f"plan: {plural(steps, 'step')}, {steps / self._steps_per_epoch:.1f} epochs, "
            f"{plural(progress.evaluations, 'evaluation')}; {repeat}"
        )
        if progress.step:
            self._save_state()

    def _plan_minutes(self, times: list[float]) -> tuple[int, int]:
        """Return the number of steps and of evaluations of a run with a length in minutes, and create its time budget.

        Args:
            times: duration of each planning step, in seconds.
        """
        minutes = self._config.minutes
        assert minutes is not None
        run_times = expected_times(times, self._time_middle_stage(), self._dataset.input_hw, self._config)
        self._budget = budget = TimeBudget(minutes, run_times)
        self._evaluate()  # measures the duration of an evaluation, and shows early if it fails

        def plan() -> tuple[int, int, float]:
            steps, evaluations = budget.first_plan(self._config, self._seconds())
            if self._inputs.unlabeled is None:
                return steps, evaluations, 0.0
            seconds = self._time_labeling(steps, self._inputs.unlabeled.dataset)
            return *budget.first_plan(self._config, self._seconds() + seconds), seconds

        steps, evaluations, self._progress.labeling_seconds = self._processes.from_first(plan)
        if steps <= 2 * PLANNING_STEPS:
            step_seconds, evaluation_seconds = run_times.mean_step(0), budget.times.evaluation_seconds
            seconds = self._seconds() + _FEW_STEPS * step_seconds + evaluation_seconds
            log.warning(
                f"--minutes {minutes:g} is too short to learn much from this data on this machine (an evaluation takes "
                f"{evaluation_seconds:.1f} s, a step {step_seconds:.2f} s); {_FEW_STEPS} steps need about --minutes "
                f"{math.ceil(seconds / 60)}"
            )
        return steps, evaluations

    def _time_labeling(self, steps: int, images: DetectionDataset) -> float:
        """Return the expected time of the labeling in seconds, from the time of the detection in a few images.

        Args:
            steps: number of steps of the run.
            images: the unlabeled images.
        """
        detector, few = self._detector(), list(range(min(len(images), BATCH_SIZE)))
        times = []
        for _ in range(2):  # the first also prepares kernels
            start = time.monotonic()
            detect_unlabeled(detector, images, few, tta=False, stop=lambda: False)
            times.append(time.monotonic() - start)
        indices, tta = choose_images(len(images), affordable_passes(steps, self._batch_size))
        return times[-1] / len(few) * len(indices) * (2 if tta else 1) / self._processes.size

    def _time_middle_stage(self) -> list[float]:
        """Return the durations of a few steps at the middle input size, in seconds; then undo these steps.

        Only the planning steps of a run with a length in minutes are timed at a size that comes later in the run. They
        are part of every run, so that it can be repeated with the same number of steps, and there are too few of them
        for a third size. Empty if the middle input size is also that of another stage.
        """
        first, middle, last = input_stages(self._dataset.input_hw, self._config)
        if middle.input_hw in (first.input_hw, last.input_hw):
            return []
        saved = {name: tensor.clone() for name, tensor in self._trainer.state().items()}
        # In a run of this length, the next steps are in the middle stage.
        plan, stop = StepPlan.fixed(int(PLANNING_STEPS / middle.start)), PLANNING_STEPS + _MIDDLE_STEPS
        times: list[float] = []
        tick = time.monotonic()
        # Without multi-scale training, so that each step has the middle size.
        fixed = self._dataset.select(range(len(self._dataset)), config=replace(self._config, multi_scale=0.0))
        part = self._processes.part(self._batch_size)
        batches = training_batches(
            fixed, self._batch_size, plan, PLANNING_STEPS, stop + _PAST_PLANNING, self._pseudo, part
        )
        for step, batch in islice(batches, _MIDDLE_STEPS):
            with contextlib.suppress(NonFiniteLossError):  # if the run diverges, its own steps report it
                self._trainer.step(step, plan.length_at(step), batch)
            times.append(time.monotonic() - tick)
            tick += times[-1]
        self._trainer.restore(saved)
        return times

    def _batches(self, plan: StepPlan, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """Return the batches of some steps; with several processes, the part of this process of each batch."""
        part = self._processes.part(self._batch_size)
        return training_batches(self._dataset, self._batch_size, plan, start, stop, self._pseudo, part)

    def _resume_budget(self, minutes: float) -> None:
        """Create the time budget of a resumed run from its checkpoint."""
        progress, stages = self._progress, input_stages(self._dataset.input_hw, self._config)
        times = RunTimes(stages, tuple(progress.step_seconds), progress.evaluation_seconds)
        self._budget = TimeBudget(minutes, times)
        self._write_settings()  # the run may have been killed after a later change of the plan

    def _write_settings(self) -> None:
        """Write config.json."""
        settings = resolved_settings(self._inputs, self._progress, self._dtype)
        if self._processes.size > 1:
            settings["processes"] = self._processes.size
        self._folder.write_json("config.json", settings)
        self._observation.settings(self._progress.step, settings)

    def _change_plan(self, budget: TimeBudget) -> bool:
        """Change the number of steps if the run would end too early or too late otherwise; return whether it changed.

        A changed plan is saved at once. So if the run is resumed, it has this plan too.
        """
        progress, plan = self._progress, self._progress.plan
        if progress.step == plan.steps:
            return False
        left = sum(step > progress.step for step in plan.evenly_spaced(progress.evaluations))
        change = self._processes.from_first(
            lambda: budget.change(plan, progress.step, left, self._seconds() + progress.labeling_seconds)
        )
        if change is None:
            return False
        log.info(
            f"step {progress.step}: the run now has {change.plan.steps} steps instead of {plan.steps}, because it "
            f"would take {change.total_seconds / 60:.2f} min instead of {self._config.minutes:g} min (a step takes "
            f"{change.step_seconds:.3f} s instead of {change.expected_seconds:.3f} s)"
        )
        progress.plan_changes = list(change.plan.changes)
        self._save_state()
        self._write_settings()
        return True

    def _advance(self, plan: StepPlan, stop: int, bar: "tqdm[Any]") -> list[float]:
        """Do the steps up to `stop`, unless a shutdown is requested or the plan changes.

        Returns the duration of each step, in seconds.

        Args:
            plan: planned number of steps of the whole run, for the schedules.
            stop: number of steps of the run that are done at the end.
            bar: progress bar.
        """
        progress, start = self._progress, self._progress.step
        times: list[float] = []
        evaluate_after = set(plan.evenly_spaced(progress.evaluations))
        check_after = evaluate_after.union(plan.evenly_spaced(CHECKS))
        tick = time.monotonic()
        # The data loader must be busy while the planning steps are timed, as in the rest of the run. So it prepares
        # more batches than the planning steps need.
        beyond = stop + _PAST_PLANNING if stop == PLANNING_STEPS else stop
        for step, batch in islice(self._batches(plan, start, beyond), stop - start):
            try:
                terms = self._trainer.step(step, plan.length_at(step), batch)
            except NonFiniteLossError as error:
                raise self._report_non_finite_loss(error) from None
            losses = {name: float(part) for name, part in terms.parts.items()}
            progress.losses = {name: progress.losses.get(name, 0.0) + value for name, value in losses.items()}
            progress.steps_since += 1
            progress.step = step + 1
            times.append(time.monotonic() - tick)
            tick += times[-1]
            if self._budget is not None and step > start:  # the first step also waits for the data loader to start
                input_hw = batch.images.shape[2], batch.images.shape[3]
                stage_hw = stage_size_at(self._dataset.input_hw, step, plan.length_at(step), self._config)
                self._budget.record_step(input_hw, times[-1], stage_hw)
            bar.set_postfix_str(f"{_format_losses(losses)}, {self._batch_size / times[-1]:.0f} img/s", False)
            bar.update()
            if self._observation.wants_steps:
                self._observation.step(self._step_event(losses, batch, times[-1]))
            if progress.step in evaluate_after:
                self._evaluate_and_save(self._batch_size / median(times))
                if self._stopped_early():
                    log.info(f"early stopping: no better AP in the last {self._config.patience} evaluations")
                    break
                tick = time.monotonic()
            elif progress.steps and 0 < self._config.save_every * 60 <= time.monotonic() - self._saved_at:
                self._save_state()
            if self._must_stop():
                break
            if self._budget is not None and progress.step in check_after and self._change_plan(self._budget):
                break
        return times

    def _evaluate_and_save(self, images_per_second: float) -> None:
        """Evaluate the averaged weights; write the weights, results.csv, timing.csv and a checkpoint; log the results.

        Args:
            images_per_second: throughput of the training steps, for timing.csv.
        """
        progress, start = self._progress, time.monotonic()
        self._check_weights()
        ap = self._evaluate()
        is_best = update_best(progress, ap)
        losses = {name: total / progress.steps_since for name, total in progress.losses.items()}
        progress.losses, progress.steps_since = {}, 0
        seconds = self._seconds()
        row = results_row(self._inputs, progress, losses, ap)
        progress.results.append(row)
        timing = {"seconds": round(seconds, 1), "images_per_second": round(images_per_second, 1)}
        progress.timing.append({"step": progress.step} | timing)
        info, float16 = weights_info(self._inputs, progress, seconds, ap), self._config.save_float16
        self._folder.save(self._trainer.ema.network, info, float16=float16)
        if is_best:
            # A copy: training goes on to change the tensors of the network.
            tensors = tensors_to_save(self._trainer.ema.network, float16)
            self._best = {name: tensor.clone() for name, tensor in tensors.items()}
            progress.best_metadata = to_metadata(info)
            progress.best_sha256 = self._folder.save_best(self._best, progress.best_metadata)
        self._folder.write_table("results.csv", progress.results)
        self._folder.write_table("timing.csv", progress.timing)
        self._save_state()
        self._observation.evaluation(self._evaluation_event(losses, ap, is_best, seconds), self._found)
        self._record_evaluation(time.monotonic() - start)
        scores = (
            "no val split" if ap is None else (f"val AP {metric(ap.AP)} AP50 {metric(ap.AP50)} AP75 {metric(ap.AP75)}")
        )
        log.info(
            f"step {progress.step}/{progress.steps} epoch {row['epoch']:g}, {seconds:.0f} s, "
            f"{images_per_second:.0f} img/s, loss {sum(losses.values()):.2f} ({_format_losses(losses)}): {scores}"
        )

    def _step_event(self, losses: Mapping[str, float], batch: Batch, seconds: float) -> TrainingStep:
        """Return what callbacks get to know about the last step; `seconds` is its duration."""
        progress = self._progress
        return TrainingStep(
            step=progress.step,
            steps=progress.steps or None,
            epoch=progress.step / self._steps_per_epoch,
            losses=losses,
            learning_rates=self._trainer.learning_rates(),
            input_hw=(batch.images.shape[2], batch.images.shape[3]),
            seconds=self._seconds(),
            images_per_second=self._batch_size / seconds,
        )

    def _evaluation_event(
        self, losses: Mapping[str, float], ap: AveragePrecision | None, is_best: bool, seconds: float
    ) -> TrainingEvaluation:
        """Return what callbacks get to know about an evaluation; the arguments are its attributes."""
        progress = self._progress
        return TrainingEvaluation(
            step=progress.step,
            steps=progress.steps,
            epoch=progress.step / self._steps_per_epoch,
            losses=losses,
            ap=ap,
            is_best=is_best,
            weights=self._folder.last,
            best_weights=self._folder.best,
            seconds=seconds,
        )

    def _check_weights(self) -> None:
        """Check that all processes have bit-equal weights.

        Raises:
            ConfigError: they do not, because the machines compute with different last bits.
        """
        if self._processes.size > 1:
            checksum = 0
            for tensor in self._trainer.network.state_dict().values():
                checksum = zlib.crc32(tensor.cpu().contiguous().numpy(), checksum)
            self._processes.check_same(
                {"weights": checksum}, "the machines compute different last bits; use machines of the same kind"
            )

    def _evaluate(self) -> AveragePrecision | None:
        """Return the average precision of the averaged weights on val; None without a val split."""
        if self._val is None:
            return None
        start, val, images = time.monotonic(), self._val, self._inputs.val_images
        share = len(images), EVALUATION_OPTIONS.batch_size  # the batches are those of one process
        own = [images[index] for index in self._processes.share(*share)]
        found = self._processes.join(list(detect_letterboxed_split(self._detector(), own).values()), *share)
        if self._processes.is_first:
            ids = [image.annotation.image_id for image in images]
            self._found = dict(zip(ids, found, strict=True))
        ap = self._processes.from_first(lambda: score_split(val, self._found))
        self._record_evaluation(time.monotonic() - start)
        return ap

    def _record_evaluation(self, seconds: float) -> None:
        """Record the duration of an evaluation, for the plan of a run with a length in minutes."""
        if self._budget is not None:
            self._budget.record_evaluation(seconds)

    def _detector(self) -> Detector:
        """Return a detector with the averaged weights; it shares their memory."""
        runtime = TorchRuntime(self._trainer.ema.network, self._dataset.input_hw, self._inputs.device)
        return Detector(runtime, weights_info(self._inputs, self._progress, self._seconds(), None))

    def _save_state(self) -> None:
        """Write a checkpoint."""
        progress = self._progress
        progress.seconds = self._seconds()
        if self._budget is not None:
            progress.step_seconds = list(self._budget.times.step_seconds)
            progress.evaluation_seconds = self._budget.times.evaluation_seconds
        self._folder.save_state(progress, with_best(self._trainer.state(), self._best))
        self._saved_at = time.monotonic()

    def _seconds(self) -> float:
        """Return the wall time since the start of the run."""
        return time.monotonic() - self._started

    def _stopped_early(self) -> bool:
        """Return True if the last `patience` evaluations have not given a better AP; False if `patience` is 0."""
        return 0 < self._config.patience <= self._progress.without_better

    def _result(self) -> TrainingResult:
        """Return the result of the run; log the result, and a warning if the run took much longer than its length."""
        progress, minutes = self._progress, self._config.minutes
        seconds = self._seconds()
        weights = self._folder.path / "weights"
        log.info(f"done: {plural(progress.step, 'step')} in {seconds:.1f} s; weights in {weights}")
        if minutes is not None:
            log.info(_how_to_repeat(progress))
        if minutes is not None and seconds > OVERRUN * minutes * 60:
            reason = (
                f"a run has at least {PLANNING_STEPS + 1} steps"
                if progress.steps <= PLANNING_STEPS + 1
                else "the last steps or evaluations were much slower than those before"
            )
            log.warning(f"the run took {seconds / 60:.1f} min instead of {minutes:g} min: {reason}")
        best = None if progress.best is None else AveragePrecision(**progress.best)
        if best is not None and self._val is not None and (advice := self._advice(best, self._val)) is not None:
            log.info(advice)
        return TrainingResult(self._folder.path, progress.step, seconds, best, self._shutdown.requested)

    def _advice(self, best: AveragePrecision, val: Split) -> str | None:
        """Return the advice for a low AP of the best weights; None if it is not low."""
        names = distinct_names(val.class_names, val.category_ids)
        counts = count_objects(self._dataset.annotations, len(names)).tolist()
        trained = Trained(self._progress.step, sum(counts), dict(zip(names, counts, strict=True)))
        return low_ap_advice(best, val, self._dataset.input_hw, trained)

    def _report_non_finite_loss(self, error: NonFiniteLossError) -> ConfigError:
        """Write the step, seed, images and losses to not-finite.json; return the error to raise."""
        annotations = self._inputs.split.annotations
        if self._inputs.unlabeled is not None:
            annotations = (*annotations, *self._inputs.unlabeled.dataset.annotations)
        names = {annotation.image_id: annotation.image_path for annotation in annotations}
        losses = {name: float(part) for name, part in error.terms.parts.items()}
        images = [str(names[image_id]) for image_id in error.image_ids]
        batch = {"step": error.step, "seed": self._config.seed, "images": images}
        self._folder.write_json("not-finite.json", batch | {"losses": {k: str(v) for k, v in losses.items()}})
        return ConfigError(
            f"the loss is not finite at step {error.step} ({_format_losses(losses)}) with the images:",
            *(f"  {image}" for image in images),
            "Try a lower learning rate (--set lr=...) or --set precision=fp32.",
        )


def _how_to_repeat(progress: Progress) -> str:
    """Return how to repeat a run with a length in minutes, or that this is not possible."""
    first, *changes = progress.plan_changes
    if changes:
        return (
            "this run cannot be repeated exactly, because its number of steps changed during the run; a run as long: "
            f"--set steps={progress.steps} instead of --minutes"
        )
    # The number of evaluations was chosen from their duration. It decides which weights are the best ones.
    return f"to repeat this run: --set steps={first[1]} --set evaluations={progress.evaluations} instead of --minutes"


def _format_losses(losses: Mapping[str, float]) -> str:
    """Return the loss terms as text, such as "classes 0.11 iou 2.35"."""
    return " ".join(f"{name} {value:.2f}" for name, value in losses.items())
