"""Train a detector on a dataset, and resume an interrupted run."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from shlex import join, quote
from typing import Any

from detector.augment.own_transform import Transform, load_transform, transform_name
from detector.config import ArchitectureConfig, Config, config_of
from detector.data.joined_data import choose_training_classes, describe, open_all, read_joined_splits, specs_of
from detector.data.ledger import Ledger
from detector.data.objects import check_has_objects, has_objects
from detector.data.split import Split
from detector.data.training_splits import TrainingSplits
from detector.errors import ConfigError, FileError, WeightsError
from detector.evaluating.evaluate import LetterboxedImage, read_letterboxed_split
from detector.files import file_sha256, local_path
from detector.image_hashes import NO_IMAGES
from detector.loader.dataset import DetectionDataset, copy_paste_fraction, transform_samples
from detector.loader.input_size import check_multi_scale, choose_input_size, input_stages, without_resizing
from detector.loggers.names import LoggerName
from detector.metrics.seeds import VAL_HALVES
from detector.model.checkpoint import load_weights
from detector.model.network import GridNetwork, check_padding, uses_spp
from detector.object_store import absolute_url, is_store_url
from detector.remote_folder import output_place
from detector.runtime.hardware import training_process
from detector.shipped_weights import find_weights, lasting_name
from detector.trained_classes import ClassChoice, TrainedClasses, changed_groups, class_choice
from detector.training.distributed import ALONE, Processes, joined_processes
from detector.training.environment import EFFECTS
from detector.training.events import EvaluationCallback, StepCallback
from detector.training.initial_weights import AUTO, RANDOM, default_start, describe_start, start_facts
from detector.training.observers import NOBODY, Observers
from detector.training.report import claim_report, write_training_report
from detector.training.run import TrainingResult, TrainingRun
from detector.training.run_folder import RunFolder, UnwrittenFolder, check_free
from detector.training.run_inputs import RunInputs
from detector.training.run_record import RunRecord, TrainRequest, content_hash, has_changed, parse_record
from detector.training.run_state import State
from detector.training.unlabeled import NAME, read_unlabeled
from detector.weights_info import WeightsInfo
from detector.wording import few_names, plural

log = logging.getLogger(__name__)

_ENTRIES_SHOWN = 10
"""Largest number of different ledger entries that are logged for a split."""

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
            inputs, ledgers = _prepare(request, weights, initial, processes)
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
        inputs, _ = _prepare(request, weights, initial, processes)
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
    inputs, ledgers = _prepare(request, weights, initial, processes)
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


def _prepare(
    request: TrainRequest, weights: GridNetwork | None, info: WeightsInfo | None, processes: Processes
) -> tuple[RunInputs, dict[str, Ledger]]:
    """Read the data; return the inputs of the run, and split name → ledger.

    Args:
        request: request of the run.
        weights: network with the initial weights; None: they are random, or a checkpoint will replace them.
        info: description of the initial weights; None: they are random.
        processes: the processes of the run.

    Raises:
        InputError: the data, the weights or a setting cannot be used.
    """
    config = request.config
    device = processes.device(config.device)
    if config.freeze and request.weights is None:
        raise ConfigError("freeze: the backbone has random weights, so it must learn; set freeze=0, or give --weights")
    sources = open_all(request.data, allow_outside=config.allow_outside, max_pixels=config.max_pixels)
    for source in sources:
        log.info("%s", source.description)
    if info is not None:
        config = _with_architecture(config, info, request)
    config = without_resizing(config)
    known = NO_IMAGES if info is None else info.image_hashes
    splits = read_joined_splits(sources, request.split, config.val_fraction, known, config.missing_classes)
    splits, learned = choose_training_classes(splits, request.choice, len(sources) > 1, config.missing_classes)
    _check_splits(splits, learned, config, info, request)
    split, val = splits.train, splits.val
    same_classes = info is None or info.class_names == split.class_names
    input_hw = choose_input_size(config, split.annotations)
    config = _resolve_auto(config, input_hw, len(split.annotations), same_classes)
    _check_input_size(input_hw, config, info, request)
    _check_patience(config, val)
    # Only now are the images decoded, which may take long.
    dataset = DetectionDataset(split, input_hw, config, processes.local_size)
    val_images: tuple[LetterboxedImage, ...] = ()
    if val is not None:
        val, val_images = read_letterboxed_split(val, input_hw)
    ledgers = {split.name: dataset.ledger} | ({val.name: val.ledger} if val else {})
    images = {split.name: len(dataset)} | ({val.name: len(val_images)} if val else {})
    _check_ledgers(ledgers, images, config.allow_dropped)
    check_has_objects(dataset.annotations, dataset.ledger, split.name)
    if val is not None and not has_objects(val.annotations):
        log.warning(
            "%s: the split has no objects (crowd regions do not count), so its AP is not available (n/a), and the last "
            "weights count as the best",
            val.name,
        )
    splits = replace(splits, val=val)
    hashes = splits.image_hashes(known)
    unlabeled = None
    if request.unlabeled is not None:
        unlabeled = read_unlabeled(request.unlabeled, splits, val_images, input_hw, config)
        ledgers[NAME] = unlabeled.dataset.ledger
        hashes = hashes.with_train(unlabeled.hashes)
    if request.transform is not None:
        transform = load_transform(request.transform, len(split.class_names), config.seed)
        transform.check(transform_samples(dataset))
        log.info("transform: %s", transform.fact)
        dataset = dataset.with_transform(transform)
        if unlabeled is not None:
            unlabeled = replace(unlabeled, dataset=unlabeled.dataset.with_transform(transform))
    inputs = RunInputs(
        config=config,
        device=device,
        dataset=dataset,
        splits=splits,
        val_images=val_images,
        description=describe(sources),
        weights=weights,
        same_classes=same_classes,
        start_facts=start_facts(request.weights, info),
        image_hashes=hashes,
        unlabeled=unlabeled,
        trained_classes=learned,
    )
    if unlabeled is not None and inputs.batch_size < 2:
        raise ConfigError("unlabeled: a batch of one image has no place for an unlabeled image; use --batch 2 or more")
    return inputs, ledgers


def _check_splits(
    splits: TrainingSplits,
    learned: TrainedClasses | None,
    config: Config,
    info: WeightsInfo | None,
    request: TrainRequest,
) -> None:
    """Check that the run can learn from the training split; log the notes and warnings about the splits.

    Args:
        splits: the splits, with the classes of the run.
        learned: how the classes of the run follow from those of the data; None: they are the same.
        config: settings of the run.
        info: description of the initial weights; None: they are random.
        request: request of the run.

    Raises:
        InputError: there are no objects, the loss cannot learn from the labels, or the weights have other classes.
    """
    split = splits.train
    check_has_objects(split.annotations, split.ledger, split.name)
    check_loss(config, split, request.unlabeled)
    if info is not None:
        _check_classes(info.class_names, split, request)
    for note in splits.notes:
        log.info("%s", note)
    for warning in splits.warnings:
        log.warning("%s", warning)
    if info is not None and info.class_names == split.class_names:
        _warn_of_other_groups(info, learned)


def _resolve_auto(config: Config, input_hw: tuple[int, int], images: int, same_classes: bool) -> Config:
    """Return a copy of `config` in which `spp`, `copy_paste` and `lr_backbone` have the values that "auto" stands for.

    With the same classes, "auto" of `lr_backbone` stays: then the learning rate of the backbone is not reduced.

    Args:
        config: settings of the run.
        input_hw: full input size (height, width).
        images: number of training images.
        same_classes: True if the initial weights have the same classes as the dataset, or are random.
    """
    config = replace(config, spp=uses_spp(config, input_hw), copy_paste=copy_paste_fraction(config, images))
    if not same_classes and config.lr_backbone == "auto":
        config = replace(config, lr_backbone="by_steps")
    return config


def _check_input_size(
    input_hw: tuple[int, int], config: Config, info: WeightsInfo | None, request: TrainRequest
) -> None:
    """Check that the initial weights and all input sizes of the run fit the full input size.

    Args:
        input_hw: full input size (height, width).
        config: settings of the run.
        info: description of the initial weights; None: they are random.
        request: request of the run.

    Raises:
        InputError: the weights or a setting do not fit.
    """
    if info is not None and config.has_fixed_input and input_hw != info.input_hw:
        _check_other_cells(info, input_hw, request)
    check_multi_scale(input_hw, config)
    for stage in input_stages(input_hw, config):
        for size in stage.sizes:
            check_padding(size, config)


def _check_patience(config: Config, val: Split | None) -> None:
    """Raise ConfigError if early stopping is on, and the run has no AP on a val split."""
    has_ap = val is not None and has_objects(val.annotations)
    if config.patience and not has_ap:
        problem = "there is no val split" if val is None else "the val split has no objects"
        raise ConfigError(
            f"patience: early stopping needs the AP on a val split, and {problem}; set patience=0, or let "
            "--val-fraction hold back images"
        )


def _check_ledgers(ledgers: Mapping[str, Ledger], images: Mapping[str, int], allow_dropped: float) -> None:
    """Log the ledger of each split; raise LabelError if one has dropped more rows than `allow_dropped` allows.

    Args:
        ledgers: name of a split → its ledger.
        images: name of a split → number of its images that can be used.
        allow_dropped: the setting.
    """
    for line in sum(ledgers.values(), Ledger()).note_lines():
        log.info("%s", line)
    for name, ledger in ledgers.items():
        log.info("%s: %s, %s", name, plural(images[name], "image"), ledger.summary())
        ledger.check(allow_dropped)  # the error lists entries too, so they are not logged before
        for text, count in ledger.distinct_entries(_ENTRIES_SHOWN):
            log.info("  %s%s", text, f" ({count} boxes)" if count > 1 else "")


def _with_architecture(config: Config, info: WeightsInfo, request: TrainRequest) -> Config:
    """Return a copy of `config` with the architecture settings of the initial weights.

    If the setting `input_size` is "auto", it becomes the input size of the weights. With `reuse_backbone`, it remains
    "auto": objects of other classes may have other sizes.

    Raises:
        ConfigError: a setting of the architecture has a value that is neither the default nor that of the weights.
    """
    own = config_of(dict(info.config) | {"model": info.model})
    own = replace(own, spp=uses_spp(own, info.input_hw))
    architecture = {setting.name: getattr(own, setting.name) for setting in fields(ArchitectureConfig)}
    for name, value in architecture.items():
        if getattr(config, name) not in (value, getattr(Config, name)):
            raise ConfigError(
                f"{name}: {getattr(config, name)} does not fit the weights {request.weights}, which have {value}; "
                f"leave {name} out"
            )
    input_size = config.input_size
    if input_size == "auto" and not request.reuse_backbone:
        input_size = info.input_hw if info.has_fixed_input else max(info.input_hw)
    return replace(config, input_size=input_size, **architecture)


def _check_other_cells(info: WeightsInfo, input_hw: tuple[int, int], request: TrainRequest) -> None:
    """Check initial weights with fully connected layers that do not fit the input size of the new network.

    Raises:
        WeightsError: the run must start with all layers of the weights.
    """
    (height, width), (own_height, own_width) = info.input_hw, input_hw
    if not request.reuse_backbone:
        raise WeightsError(
            f"{request.weights}: the fully connected layers of these weights (cell_output=dense) fit only inputs of "
            f"{width}x{height} pixels (width x height), not {own_width}x{own_height}; use --set "
            f"input_size=[{height},{width}], or --reuse-backbone to start these layers from random weights"
        )
    log.info(
        "the fully connected layers start from random weights: those of the initial weights fit inputs of %dx%d "
        "pixels, not %dx%d",
        width, height, own_width, own_height,
    )  # fmt: skip


def check_loss(config: Config, split: Split, unlabeled: str | None = None) -> None:
    """Raise ConfigError if the loss cannot leave out single classes of an image, which the run needs.

    Args:
        config: settings of the run.
        split: the training split, which may have partial labels.
        unlabeled: path of the unlabeled images, in which some classes may be without labels; None: there are none.
    """
    has_partial = any(a.labeled_classes is not None for a in split.annotations)
    if (has_partial or unlabeled is not None) and (config.head != "points" or config.class_loss == "softmax"):
        setting = "head=yolo_v1" if config.head != "points" else "class_loss=softmax"
        source = "partial labels, in which not every class is labeled in every image" if has_partial else "--unlabeled"
        raise ConfigError(f"{setting} cannot learn from {source}; use the default head and class_loss")


def _check_classes(class_names: tuple[str, ...], split: Split, request: TrainRequest) -> None:
    """Raise WeightsError if the weights have other classes than the data, unless `reuse_backbone` accepts that."""
    if class_names != split.class_names and not request.reuse_backbone:
        raise WeightsError(
            f"{request.weights}: the weights have the classes {list(class_names)}, but the dataset has "
            f"{list(split.class_names)}; to use all but the outputs for classes of the weights, add --reuse-backbone"
        )


def _warn_of_other_groups(info: WeightsInfo, learned: TrainedClasses | None) -> None:
    """Warn of classes of the initial weights that have the same name now, but consist of other classes of the data.

    The run is right, because its weights get the new groups; but it starts from outputs for other objects.

    Args:
        info: description of the initial weights, which have the classes of the run.
        learned: how the classes of the run follow from those of the data; None: they are the same.
    """
    for name, (before, now) in changed_groups(info.class_names, info.trained_classes, learned).items():
        log.warning(
            "class '%s': it consisted of %s in the initial weights, and now consists of %s; training starts from what "
            "they learned of the old class, and AP is measured with the new one; if it is another class, give it "
            "another name, and add --reuse-backbone",
            name, few_names(before), few_names(now),
        )  # fmt: skip
