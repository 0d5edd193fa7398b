"""Train a detector on a dataset, and resume an interrupted run."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from shlex import join, quote
from typing import Any

from detector.augment.own_transform import Transform, transform_name
from detector.config import Config
from detector.data.joined_data import specs_of
from detector.data.ledger import Ledger
from detector.errors import ConfigError, FileError
from detector.files import file_sha256, local_path
from detector.loggers.names import LoggerName
from detector.metrics.seeds import VAL_HALVES
from detector.model.checkpoint import load_weights
from detector.object_store import absolute_url, is_store_url
from detector.remote_folder import output_place
from detector.runtime.hardware import training_process
from detector.shipped_weights import find_weights, lasting_name
from detector.trained_classes import ClassChoice, class_choice
from detector.training.distributed import ALONE, Processes, joined_processes
from detector.training.environment import EFFECTS
from detector.training.events import EvaluationCallback, StepCallback
from detector.training.initial_weights import AUTO, RANDOM, default_start, describe_start
from detector.training.observers import NOBODY, Observers
from detector.training.preparation import prepare
from detector.training.report import claim_report, write_training_report
from detector.training.run import TrainingResult, TrainingRun
from detector.training.run_folder import RunFolder, UnwrittenFolder, check_free
from detector.training.run_inputs import RunInputs
from detector.training.run_record import RunRecord, TrainRequest, content_hash, has_changed, parse_record
from detector.training.run_state import State
from detector.wording import plural

log = logging.getLogger(__name__)

DEFAULT_MINUTES = 10.0
"""Length of a run if the settings give no length."""


def train(
    data: str | Path | Sequence[str | Path],
    config: Config | None = None,
    *,
    out: str | Path = "runs/train",
    split: str | None = None,
    weights: str | Path | None = "auto",
    reuse_backbone: bool = False,
    unlabeled: str | Path | None = None,
    classes: Sequence[str] | None = None,
    single_class: str | None = None,
    transform: Transform | str | None = None,
    overwrite: bool = False,
    report: bool = False,
    loggers: Sequence[LoggerName] = (),
    on_step: StepCallback | None = None,
    on_evaluation: EvaluationCallback | None = None,
) -> TrainingResult:
    """Train a detector and return the path and the AP of the best weights.

    Side effects on this process: from now on the memory allocator keeps large blocks that are freed (glibc only), which
    makes training faster. The number of OpenCV threads and the state of PyTorch's random number generators are changed
    during the run and restored at its end. During the run, Ctrl-C and SIGTERM request a graceful shutdown, if `train`
    was called in the main thread.

    Args:
        data: the dataset, in any form that `open_data` accepts. The run is evaluated on its val split, and the
            weights with the highest AP are the best. If it has no val split, some of the training images are held back
            for the evaluation; see the setting `val_fraction`. Several datasets are trained on together: classes are
            merged by name, and a class that a dataset does not have is not labeled there (see the setting
            `missing_classes`).
        config: settings; None: the defaults. Without a length, the run takes ten minutes.
        out: output folder, or its URL (docs/remote.md). It is created if it is missing, and must not contain a run, or
            other files with the names of the files of a run.
        split: name of the training split; None: "train", or the only split of the dataset. "trainval" trains on train
            and val; then the run is not evaluated, and the last weights are the best.
        weights: initial weights: a path, or the name of shipped weights. The network then has their architecture, and
            their input size if the setting `input_size` is "auto" (but see `reuse_backbone`). "none" or None: random
            weights. "auto": shipped weights with `reuse_backbone`, if some fit the settings, else random weights; see
            `initial_weights.default_start`.
        reuse_backbone: accept initial weights with other classes than the dataset, and use all but their outputs for
            classes. Then the input size "auto" is chosen from the data.
        unlabeled: images without labels to learn from, too: a folder of images, a .txt file that lists images, or a
            dataset, whose labels are not used. See the settings `unlabeled_start`, `unlabeled_fraction` and
            `unlabeled_score`. Images of val, and images that look the same, are left out.
        classes: names of the classes to learn; None: all classes. Objects of the other classes are background. All
            images stay.
        single_class: name of the one class into which all (chosen) classes are merged; None: they are not merged.
        transform: own last step of the augmentation: a callable (sample, rng) -> sample that is a global name of a
            module, or its `module:name`. docs/how-to/own-transform.md lists what it must promise.
        overwrite: whether to replace a run or other files in `out`. The files of the earlier run are removed.
        report: whether to write report/report.html about the best weights on val, after the weights are saved. That
            takes a few seconds, which a length in minutes does not contain.
        loggers: experiment trackers that the run is logged to: "tensorboard", "mlflow", "wandb" (docs/loggers.md).
            A tracker that fails or does not answer neither stops nor slows down the run; warnings say what is missing.
        on_step: function that is called with a `TrainingStep` after each step. A length in minutes contains its time.
        on_evaluation: function that is called with a `TrainingEvaluation` after each evaluation.

    Raises:
        InputError: the data, settings, weights or folder cannot be used, or the loss became infinite or NaN.
        KeyboardInterrupt: Ctrl-C or SIGTERM. A checkpoint has been saved, and `resume` continues the run.
        Exception: a callback raised it. A checkpoint has been saved as after Ctrl-C, except in the first 20 steps of a
            run with a length in minutes, and no callback is called again.
    """
    started = time.monotonic()
    observers = Observers(on_step, on_evaluation, loggers)
    with joined_processes() as processes:
        request = make_request(
            data,
            config or Config(),
            split=split,
            weights=weights,
            reuse_backbone=reuse_backbone,
            unlabeled=unlabeled,
            choice=class_choice(classes, single_class),
            transform=transform,
        )
        with run_place(out, processes, overwrite=overwrite) as folder:
            return start_run(
                request, folder, started, overwrite, report=report, processes=processes, observers=observers
            )


def resume(
    run: str | Path,
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    unlabeled: str | Path | None = None,
    anyway: bool = False,
    report: bool = False,
    loggers: Sequence[LoggerName] | None = None,
    on_step: StepCallback | None = None,
    on_evaluation: EvaluationCallback | None = None,
) -> TrainingResult:
    """Continue an interrupted run from its last checkpoint, with exactly the same result as without the interruption.

    With a length in minutes, the plans in the checkpoint are kept, but the number of steps may change again after it if
    the speed changes. Then the result can differ from that without the interruption.

    Has the same side effects on this process as `train`. If weights/best.safetensors is missing or damaged, it is
    written again from the checkpoint.

    Args:
        run: output folder of the run, or its URL.
        data: the dataset, if it has been moved since the start of the run; its images and labels must be the same.
            None: the dataset is where it was. Several datasets are given in the order of the run.
        unlabeled: the unlabeled images, if they have been moved; None: they are where they were.
        anyway: resume even if the data, the settings in run.json, the initial weights, a version, the number of
            threads, the device or the machine has changed. Then the result may differ.
        report: as for `train`.
        loggers: as for `train`; None: those of the run before. Each continues the same curves.
        on_step: as for `train`.
        on_evaluation: as for `train`.

    Raises:
        InputError: the folder contains no run, the run is finished, or something has changed. In the last case, the
            message lists each change and its effect.
        KeyboardInterrupt: Ctrl-C or SIGTERM. A checkpoint has been saved.
        Exception: as for `train`.
    """
    started = time.monotonic()
    observers = Observers(on_step, on_evaluation, loggers)
    with joined_processes() as processes, run_place(run, processes, resume=True) as folder:
        return resume_run(
            folder,
            anyway,
            started,
            data,
            unlabeled=unlabeled,
            report=report,
            processes=processes,
            observers=observers,
        )


@contextmanager
def run_place(
    out: str | Path, processes: Processes, *, resume: bool = False, overwrite: bool = False
) -> Iterator[Path]:
    """Context manager that yields the output folder of a run, as `output_place` does; only in the first process.

    The other processes write nothing, so they get the path as it is.
    """
    if not processes.is_first:
        yield Path(out)
        return
    with output_place(out, resume=resume, overwrite=overwrite) as folder:
        yield folder


def make_request(
    data: str | Path | Sequence[str | Path],
    config: Config,
    *,
    split: str | None,
    weights: str | Path | None,
    reuse_backbone: bool,
    unlabeled: str | Path | None = None,
    choice: ClassChoice = ClassChoice(),  # noqa: B008 (it is frozen)
    transform: Transform | str | None = None,
) -> TrainRequest:
    """Return the request for a run: paths are made absolute, and a missing length is set to ten minutes.

    Log the initial weights. The arguments are those of `train`; `choice` stands for `classes` and `single_class`.

    Raises:
        ConfigError: a dataset is given twice.
        FileError: the initial weights or the unlabeled images do not exist.
        TransformError: the own transform has no name from which it can be loaded.
    """
    name = None if transform is None else transform_name(transform)
    if config.minutes is None and config.epochs is None and config.steps is None:
        config = replace(config, minutes=DEFAULT_MINUTES)
    is_default = weights == AUTO
    if is_default:
        weights = default_start(config)
    initial = None
    if weights is not None and weights != RANDOM:
        find_weights(weights)  # before the work
        initial = lasting_name(weights)
    log.info("%s", describe_start(initial, is_default))
    reuse_backbone = reuse_backbone or (is_default and initial is not None)
    images = None if unlabeled is None else _existing(unlabeled)
    places = tuple(map(_place, specs_of(data)))
    return TrainRequest(
        places, split, config, initial, reuse_backbone, images, choice.names, choice.merged, transform=name
    )


def _place(data: str | Path) -> str:
    """Return the absolute path of a dataset, or its URL, or the name of a built-in dataset."""
    if is_store_url(data):
        return absolute_url(str(data))
    is_path = str(data) != "scenes" and local_path(data).exists()  # "scenes" is always the built-in dataset
    return str(Path(data).resolve()) if is_path else str(data)


def _existing(unlabeled: str | Path) -> str:
    """Return the absolute path of the unlabeled images; raise FileError if nothing is there."""
    if not local_path(unlabeled).exists():
        raise FileError(
            f"{unlabeled}: no such file or folder; expected a folder of images without labels, a .txt file that lists "
            "images, or a dataset"
        )
    return str(Path(unlabeled).resolve())


def start_run(
    request: TrainRequest,
    out: Path,
    started: float,
    overwrite: bool = False,
    *,
    report: bool = False,
    val_halves: bool = False,
    processes: Processes = ALONE,
    observers: Observers = NOBODY,
) -> TrainingResult:
    """Do a new run and return its result.

    Args:
        request: data, settings and initial weights.
        out: output folder, which must not contain a run.
        started: `time.monotonic()` at the start of the run; a length in minutes is measured from there.
        overwrite: as for `train`.
        report: as for `train`.
        val_halves: whether to write val_halves.json, from which `compare` computes intervals.
        processes: the processes that do the run together. Only the first one writes into the folder.
        observers: callbacks and loggers.

    Raises:
        InputError, KeyboardInterrupt: as for `train`.
    """
    if not processes.is_first:
        return _join_run(request, out, started, processes)
    if not overwrite:
        check_free(out)
    with training_process():
        folder = RunFolder(out, overwrite=overwrite)  # before the data is read, which may take long
        try:
            if report:
                claim_report(folder, resumed=False)
            if request.weights_path is not None:
                folder.check_not_removed(request.weights_path)
            weights, initial = (None, None) if request.weights is None else load_weights(request.weights)
            inputs, ledgers = prepare(request, weights, initial, processes)
            folder.remove_earlier()
            if inputs.split.from_files:
                folder.write_json("split.json", inputs.splits.to_json())
            folder.write_json("ledger.json", {name: ledger.to_json() for name, ledger in ledgers.items()})
            run = TrainingRun(inputs, folder, started, processes, observers)
            run.check_inputs()  # before run.json: the folder can be used again if the check stops the run
            facts = run.facts() | _weights_fact(request)
            _check_processes(processes, inputs, facts)
            record = RunRecord(request, initial, facts).to_json()
            folder.write_json("run.json", record)
            result = run.train(content_hash(record))
            if val_halves and (halves := run.val_halves()) is not None:
                folder.write_json(VAL_HALVES, halves.to_json())
            if report:
                write_training_report(folder, inputs)
            return result
        finally:
            folder.close()


def _join_run(request: TrainRequest, out: Path, started: float, processes: Processes) -> TrainingResult:
    """Do the part of a new run of a process that is not the first; the arguments are those of `start_run`."""
    with training_process():
        weights, initial = (None, None) if request.weights is None else load_weights(request.weights)
        inputs, _ = prepare(request, weights, initial, processes)
        run = TrainingRun(inputs, UnwrittenFolder(out), started, processes)
        _check_processes(processes, inputs, run.facts() | _weights_fact(request))
        return run.train("")


def _check_processes(processes: Processes, inputs: RunInputs, facts: Mapping[str, object]) -> None:
    """Check that all processes have the same data, initial weights, settings and versions.

    Args:
        processes: the processes of the run.
        inputs: inputs of the run in this process.
        facts: facts about the run in this process; see `environment.EFFECTS`.

    Raises:
        ConfigError: something differs.
    """
    values = dict(facts) | {"device": inputs.device.type, "input_size": inputs.dataset.input_hw}
    values |= {f"setting {name}": value for name, value in asdict(inputs.config).items()}
    processes.check_same(values, "all processes of a run must have the same data, settings, versions and threads")


def resume_run(
    path: Path,
    anyway: bool,
    started: float,
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    unlabeled: str | Path | None = None,
    report: bool = False,
    processes: Processes = ALONE,
    observers: Observers = NOBODY,
) -> TrainingResult:
    """Continue an interrupted run and return its result.

    Args:
        path: output folder of the run.
        anyway: as for `resume`.
        started: `time.monotonic()` at the start of this process.
        data: as for `resume`.
        unlabeled: as for `resume`.
        report: as for `train`.
        processes: the processes that continue the run together. Only the first one reads and writes its folder.
        observers: callbacks and loggers.

    Raises:
        InputError, KeyboardInterrupt: as for `resume`.
    """
    if not processes.is_first:
        record, state, anyway = processes.receive()
        with training_process():
            run, _ = _reopen(record, UnwrittenFolder(path), started, state, anyway, processes)
            return run.train("")
    if not path.is_dir():
        raise FileError(f"{path}: no such folder; give the output folder of a run")
    folder = RunFolder(path, resume=True)
    try:
        if report:
            claim_report(folder, resumed=True)
        values = folder.read_json("run.json")
        record = parse_record(values, path / "run.json")
        request = record.request
        if unlabeled is not None and request.unlabeled is None:
            raise ConfigError(f"{path}: the run has no unlabeled images, so they cannot have been moved")
        moved = data is not None or unlabeled is not None
        record = record.with_paths(
            None if data is None else tuple(map(_place, specs_of(data))),
            None if unlabeled is None else _existing(unlabeled),
        )
        state = folder.read_state()
        if not anyway:
            _check_record(path, values, state)
        if state is not None:  # after the checks, so that nothing is written if one fails
            folder.restore_best(*state)
            folder.restore_tables(state[0])
        if state is not None and state[0].step >= state[0].steps:
            raise _finished(folder, request, state[0].steps)
        with training_process():
            processes.from_first(lambda: (record, state, anyway))
            run, ledgers = _reopen(record, folder, started, state, anyway, processes, observers)
            folder.write_json("ledger.json", {name: ledger.to_json() for name, ledger in ledgers.items()})
            if moved or anyway:
                values = record.to_json()
                folder.write_json("run.json", values)
            result = run.train(content_hash(values))
            if report:
                write_training_report(folder, run.inputs)
            return result
    finally:
        folder.close()


def _reopen(
    record: RunRecord,
    folder: RunFolder,
    started: float,
    state: State | None,
    anyway: bool,
    processes: Processes,
    observers: Observers = NOBODY,
) -> tuple[TrainingRun, dict[str, Ledger]]:
    """Read the inputs of an interrupted run, and restore its state; return the run, and split name → ledger.

    Args:
        record: content of run.json.
        folder: output folder of the run.
        started: `time.monotonic()` at the start of this process.
        state: the last checkpoint; None: the run starts from the beginning.
        anyway: as for `resume`.
        processes: the processes that continue the run.
        observers: callbacks and loggers.

    Raises:
        InputError: as for `resume`.
    """
    request = record.request
    for place in request.data:
        if Path(place).is_absolute() and not Path(place).exists():
            paths = " ".join(["NEW_PATH"] * len(request.data))
            raise FileError(
                f"{place}: the dataset of the run does not exist; if it has been moved: detector train --resume "
                f"{quote(str(folder.path))} --data {paths}"
            )
    if request.unlabeled is not None and not Path(request.unlabeled).exists():
        raise FileError(
            f"{request.unlabeled}: the unlabeled images of the run do not exist; if they have been moved: detector "
            f"train --resume {quote(str(folder.path))} --unlabeled NEW_PATH"
        )
    weights, initial, facts = None, record.initial, {}
    if request.weights_path is not None and state is None:
        if not request.weights_path.is_file():
            raise FileError(
                f"{request.weights}: the initial weights of the run do not exist, and the run has no checkpoint yet; "
                "restore the file, or start a new run"
            )
        weights, initial = load_weights(request.weights_path)
        facts = _weights_fact(request)
    inputs, ledgers = prepare(request, weights, initial, processes)
    run = TrainingRun(inputs, folder, started, processes, observers)
    facts |= run.facts()
    if processes.is_first and not anyway:
        _check_unchanged(folder.path, record.facts, facts)
    _check_processes(processes, inputs, facts)
    if state is None:
        log.info("the run has no checkpoint yet; starting from the beginning")
    else:
        run.restore(*state)
    return run, ledgers


def _weights_fact(request: TrainRequest) -> dict[str, object]:
    """Return the hash of the file of the initial weights, as a fact; no fact if they are random."""
    if request.weights_path is None:
        return {}
    return {"weights": file_sha256(request.weights_path)[:16]}


def _finished(folder: RunFolder, request: TrainRequest, steps: int) -> FileError:
    """Return the error for a run that cannot be resumed because it is finished, with the command that trains longer.

    Args:
        folder: output folder of the run.
        request: request of the run.
        steps: number of steps of the run.
    """
    config, path, weights = request.config, folder.path, folder.last
    if not folder.last_is_intact:
        log.warning("%s: missing, or was changed after it was written; the best weights are intact", weights)
        weights = folder.best
    command = f"detector train --data {join(request.data)} --weights {quote(str(weights))}"
    if request.classes is not None:
        command += f" --classes {join(request.classes)}"
    if request.single_class is not None:
        command += f" --single-class {quote(request.single_class)}"
    if request.split not in (None, "train"):
        command += f" --split {quote(request.split)}"
    if request.unlabeled is not None:
        command += f" --unlabeled {quote(request.unlabeled)}"
    if request.transform is not None:
        command += f" --transform {request.transform}"
    if config.epochs is not None:
        command += f" --epochs {config.epochs:g}"
    else:
        command += f" --set steps={steps}" if config.minutes is None else f" --minutes {config.minutes:g}"
    return FileError(
        f"{path}: this run is finished after {plural(steps, 'step')}; its weights are in {path / 'weights'}; to train "
        f"longer, start a new run from them (with the other settings of the run, if you changed any):",
        f"  {command}",
    )


def _check_record(path: Path, values: Mapping[str, Any], state: State | None) -> None:
    """Raise ConfigError if run.json was changed since the start of the run.

    Args:
        path: output folder of the run.
        values: content of run.json.
        state: the last checkpoint, which contains the hash of run.json too; None if there is none.
    """
    if has_changed(values):
        problem = "its content was changed, or it is damaged: the content does not match the hash in the file"
    elif state is not None and state[0].run != content_hash(values):
        problem = "it does not belong to the last checkpoint"
    else:
        return
    raise ConfigError(
        f"{path / 'run.json'}: {problem}; the resumed run might have other settings than before; restore the file from "
        "a copy. To resume with the settings that are in the file: --resume-anyway"
    )


def _check_unchanged(path: Path, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Raise ConfigError if a fact that the trained weights depend on has changed since the start of the run."""
    changed = [
        f"  {name}: {before.get(name)!s:.60} before, {value} now: {EFFECTS[name]}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if changed:
        raise ConfigError(
            f"{path}: the resumed run would not end with exactly the same weights as an uninterrupted run, because:",
            *changed,
            "To resume anyway: --resume-anyway",
        )
