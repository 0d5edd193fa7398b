"""Training: from a data set to saved weights within a budget; and resuming an interrupted run."""

import logging
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from detector.config import PLANNING_STEPS, ArchitectureConfig, Config, config_of
from detector.data.ledger import Ledger
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import ConfigError, FileError, WeightsError
from detector.loader.dataset import DetectionDataset
from detector.loader.input_size import choose_input_size, input_size_at
from detector.model.checkpoint import find_weights, load_weights
from detector.model.network import check_padding, uses_spp
from detector.runtime.hardware import choose_device, training_process
from detector.training.environment import EFFECTS
from detector.training.run import RunInputs, TrainingResult, TrainingRun
from detector.training.run_folder import RunFolder, check_free
from detector.weights_info import WeightsInfo

log = logging.getLogger(__name__)

DEFAULT_MINUTES = 10.0


@dataclass(frozen=True)
class TrainRequest:
    """What to train, as run.json stores it.

    Attributes:
        data: anything `open_data` accepts; a path is absolute.
        split: the split to train on.
        config: settings.
        weights: path of the initial weights; None: random ones.
        reuse_backbone: whether these may have other classes.
    """

    data: str
    split: str
    config: Config
    weights: str | None
    reuse_backbone: bool


def train(
    data: str | Path,
    config: Config | None = None,
    *,
    out: str | Path = "runs/train",
    split: str = "train",
    weights: str | Path | None = None,
    reuse_backbone: bool = False,
) -> TrainingResult:
    """Train a detector, from scratch or from weights.

    In this process, memory that is freed in large blocks is kept by the allocator from now on (glibc only), which makes
    training faster. The number of OpenCV threads and the state of PyTorch's random number generators are restored.
    While the run lasts, Ctrl-C and SIGTERM request a graceful shutdown, if `train` is called in the main thread.

    Args:
        data: anything `open_data` accepts; its val split, where there is one, selects the best weights.
        config: settings; without a length the run takes ten minutes.
        out: output folder; it may exist, but must not hold a run.
        split: the split to train on; with "trainval" nothing is left to evaluate on, and the last weights are the best.
        weights: initial weights, a path or the name of shipped weights; the architecture, and an input size on "auto",
            are then those of the weights.
        reuse_backbone: accept weights with other classes, and use all but their last layers.

    Raises:
        InputError: the data, settings, weights or folder cannot be used, or the loss became infinite.
        KeyboardInterrupt: Ctrl-C or SIGTERM; a checkpoint has been saved, `resume` continues.
    """
    request = make_request(data, config or Config(), split=split, weights=weights, reuse_backbone=reuse_backbone)
    return start_run(request, Path(out), time.monotonic())


def resume(run: str | Path, *, anyway: bool = False) -> TrainingResult:
    """Resume an interrupted run, bit-exactly as if it had not been interrupted.

    Changes this process as `train` does.

    Args:
        run: output folder of the run.
        anyway: also where the data, versions, threads or machine have changed.

    Raises:
        InputError: there is no such run, it is finished, or something has changed, with what that means.
        KeyboardInterrupt: as for `train`.
    """
    return resume_run(Path(run), anyway, time.monotonic())


def make_request(
    data: str | Path, config: Config, *, split: str, weights: str | Path | None, reuse_backbone: bool
) -> TrainRequest:
    """Return the request of a run, with absolute paths and a length.

    Raises:
        FileError: there are no such weights.
    """
    if config.minutes is None and config.epochs is None and config.steps is None:
        config = replace(config, minutes=DEFAULT_MINUTES)
    place = str(Path(data).resolve()) if Path(data).exists() else str(data)
    initial = None if weights is None else str(find_weights(weights).resolve())
    return TrainRequest(place, split, config, initial, reuse_backbone)


def start_run(request: TrainRequest, out: Path, started: float) -> TrainingResult:
    """Start a run.

    Args:
        request: what to train.
        out: output folder.
        started: `time.monotonic()` from which a budget in minutes counts.

    Raises:
        InputError, KeyboardInterrupt: as for `train`.
    """
    check_free(out)
    with training_process():
        inputs, ledgers = _prepare(request)
        folder = RunFolder(out)
        try:
            folder.write_json("ledger.json", {name: ledger.to_json() for name, ledger in ledgers.items()})
            run = TrainingRun(inputs, folder, started)
            folder.write_json("run.json", asdict(request) | {"facts": run.facts()})
            return run.train()
        finally:
            folder.close()


def resume_run(path: Path, anyway: bool, started: float) -> TrainingResult:
    """Resume a run; see `resume` and `start_run`."""
    if not path.is_dir():
        raise FileError(f"{path}: no such folder; give the output folder of a run")
    folder = RunFolder(path)
    try:
        stored = folder.read_json("run.json")
        state = folder.read_state()
        try:
            facts = stored.pop("facts")
            request = TrainRequest(**stored | {"config": config_of(stored["config"])})
        except (KeyError, TypeError) as error:
            raise FileError(f"{path / 'run.json'}: damaged ({error!r})") from None
        if state is not None and state[0].step >= state[0].steps:
            raise FileError(f"{path}: this run is finished; its weights are in {path / 'weights'}")
        with training_process():
            inputs, ledgers = _prepare(request)
            folder.write_json("ledger.json", {name: ledger.to_json() for name, ledger in ledgers.items()})
            run = TrainingRun(inputs, folder, started)
            if not anyway:
                _check_unchanged(path, facts, run.facts())
            if state is None:
                log.info("no checkpoint was saved yet: starting from the beginning")
            else:
                run.restore(*state)
            return run.train()
    finally:
        folder.close()


def _check_unchanged(path: Path, before: dict[str, object], now: dict[str, object]) -> None:
    changed = [
        f"  {name}: {before.get(name)} before, {value} now: {EFFECTS[name]}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if changed:
        listed = "\n".join(changed)
        raise ConfigError(f"{path}: cannot be resumed bit-exactly:\n{listed}\nTo resume regardless: --resume-anyway")


def _prepare(request: TrainRequest) -> tuple[RunInputs, dict[str, Ledger]]:
    """Read the data and the weights; refuse what cannot be used. Also returns the ledger of each split."""
    config = request.config
    device = choose_device(config.device)
    source = open_data(request.data, allow_outside=config.allow_outside, max_pixels=config.max_pixels)
    log.info("%s", source.description)
    split = source.read(request.split)
    val = source.read("val") if request.split == "train" and "val" in source.split_names else None
    weights, info = None, None
    if request.weights is not None:
        weights, info = load_weights(request.weights)
        config = _with_architecture(config, info, request.weights)
        _check_classes(info.class_names, split, request)
    input_hw = choose_input_size(config, split.annotations)
    if info is not None:
        _check_same_spp(info, input_hw, request)
    for step in (0, PLANNING_STEPS - 1):
        check_padding(input_size_at(input_hw, step, PLANNING_STEPS, config), config)
    if config.patience and val is None:
        raise ConfigError("patience: there is no val split to measure the AP on; set patience=0")
    dataset = DetectionDataset(split, input_hw, config)
    ledgers = {split.name: dataset.ledger} | ({val.name: val.ledger} if val else {})
    for read in (split, val) if val else (split,):
        _check_ledger(read, ledgers[read.name], config.allow_dropped)
    same_classes = info is None or info.class_names == split.class_names
    return RunInputs(config, device, dataset, split, val, source.description, weights, same_classes), ledgers


def _check_ledger(split: Split, ledger: Ledger, allow_dropped: float) -> None:
    log.info("%s: %d images, %s", split.name, len(split.annotations), ledger.summary())
    for entry in ledger.entries[:10]:
        log.info("  %s", entry)
    ledger.check(allow_dropped)


def _with_architecture(config: Config, info: WeightsInfo, path: str) -> Config:
    """Return the settings with the architecture of the weights, and their input size where it is "auto"."""
    own = config_of(dict(info.config) | {"model": info.model})
    architecture = {setting.name: getattr(own, setting.name) for setting in fields(ArchitectureConfig)}
    for name, value in architecture.items():
        if getattr(config, name) not in (value, getattr(Config, name)):
            raise ConfigError(f"{name}: {getattr(config, name)} does not fit {path}, which has {value}: leave it out")
    input_size = max(info.input_hw) if config.input_size == "auto" else config.input_size
    return replace(config, input_size=input_size, **architecture)


def _check_same_spp(info: WeightsInfo, input_hw: tuple[int, int], request: TrainRequest) -> None:
    if uses_spp(input_hw) != uses_spp(info.input_hw):
        raise WeightsError(
            f"{request.weights}: trained at input size {max(info.input_hw)}; networks for {max(input_hw)} have a "
            f"different architecture: use --imgsz {max(info.input_hw)}"
        )


def _check_classes(class_names: tuple[str, ...], split: Split, request: TrainRequest) -> None:
    if class_names != split.class_names and not request.reuse_backbone:
        raise WeightsError(
            f"{request.weights}: has the classes {list(class_names)}, the data set {list(split.class_names)}: "
            "--reuse-backbone uses all but the last layers"
        )
