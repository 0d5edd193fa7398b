"""Training: from a data set to saved weights, within the time it was given; and going on with a run cut short."""

import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from detector.config import PLANNING_STEPS, Config, config_of
from detector.data.open_data import open_data
from detector.data.split import Split
from detector.errors import InputError
from detector.loader.dataset import DetectionDataset
from detector.loader.input_size import choose_input_size, input_size_at
from detector.model.checkpoint import find_weights, load_weights
from detector.model.network import OF_THE_NETWORK, check_canvas, uses_spp
from detector.runtime.hardware import choose_device, prepare_for_training
from detector.training.run import TrainingResult, TrainingRun
from detector.training.run_folder import RunFolder, check_free
from detector.weights_info import WeightsInfo

log = logging.getLogger(__name__)

_DEFAULT_MINUTES = 10.0

_MEANS = {
    "data": "it would learn from other images or boxes than before",
    "detector": "the same settings may mean something else",
    "torch": "sums may come out differently in their last bits",
    "numpy": "augmentation may come out differently",
    "opencv": "images may come out differently",
    "threads": "sums are added in another order, so that results differ in their last bits",
    "device": "sums are added in another order, so that results differ in their last bits",
    "machine": "sums may be added in another order, so that results differ in their last bits",
}


@dataclass(frozen=True)
class _Request:
    """What a run was asked to do, as run.json keeps it.

    Attributes:
        data: as `open_data` takes it; a path in full.
        split: to learn from.
        config: settings.
        weights: path of weights to begin with; None: random ones.
        reuse_backbone: those may be of other classes.
    """

    data: str
    split: str
    config: Config
    weights: str | None
    reuse_backbone: bool


def train(
    data: str | Path,
    config: Config | None = None,
    out: str | Path = "runs/train",
    split: str = "train",
    started: float | None = None,
    weights: str | Path | None = None,
    reuse_backbone: bool = False,
) -> TrainingResult:
    """Train a detector, from scratch or from weights.

    Args:
        data: anything `open_data` takes; its val split, where there is one, chooses the best weights.
        config: settings; without a length the run takes ten minutes.
        out: folder for the results; it may exist, but not hold a run.
        split: to learn from; with "trainval" nothing is left to evaluate on, and the last weights are the best.
        started: `time.monotonic()` at the start of the command, from which a budget in minutes counts.
        weights: to begin with, a path or a shipped name; the settings of the network, and an input on "auto", are then
            those of the weights.
        reuse_backbone: take weights of other classes too, all but the last layers.

    Raises:
        InputError: the data, settings, weights or folder will not do, or the loss became infinite.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the state was saved first, `resume` goes on.
    """
    started = time.monotonic() if started is None else started
    config = config or Config()
    if config.minutes is None and config.epochs is None and config.steps is None:
        config = replace(config, minutes=_DEFAULT_MINUTES)
    check_free(Path(out))
    place = str(Path(data).resolve()) if Path(data).exists() else str(data)
    begin_with = None if weights is None else str(find_weights(weights).resolve())
    request = _Request(place, split, config, begin_with, reuse_backbone)
    run, folder = _prepare(request, Path(out), started)
    try:
        folder.write_json("run.json", asdict(request) | {"facts": run.facts()})
        return run.train()
    finally:
        folder.close()


def resume(run: str | Path, anyway: bool = False, started: float | None = None) -> TrainingResult:
    """Go on with a run that ended before its time, to the same bits as if it had not.

    Args:
        run: its folder.
        anyway: also where data, versions, threads or machine are not those it began with.
        started: as for `train`.

    Raises:
        InputError: no such run, or it is finished, or something is not as it was, with what that means.
    """
    started = time.monotonic() if started is None else started
    path = Path(run)
    if not path.is_dir():
        raise InputError(f"{run}: no such folder; give that of a run, as --out named it")
    folder = RunFolder(path)
    try:
        said = folder.read_json("run.json")
        state = folder.read_state()
        try:
            facts = said.pop("facts")
            request = _Request(**said | {"config": config_of(said["config"])})
        except (KeyError, TypeError) as error:
            raise InputError(f"{path / 'run.json'}: damaged ({error!r})") from None
        if state is not None and state[0].step >= state[0].steps:
            raise InputError(f"{run}: this run is finished; its weights are in {path / 'weights'}")
        training, _ = _prepare(request, folder, started)
        now = training.facts()
        changed = [
            f"  {name}: {facts.get(name)} then, {value} now: {_MEANS[name]}"
            for name, value in now.items()
            if facts.get(name) != value
        ]
        if changed and not anyway:
            listed = "\n".join(changed)
            raise InputError(f"{run}: not all is as when it began:\n{listed}\n--resume-anyway goes on regardless")
        if state is None:
            log.info("nothing was saved yet: beginning anew")
        else:
            training.restore(*state)
        return training.train()
    finally:
        folder.close()


def _prepare(request: _Request, out: Path | RunFolder, started: float) -> tuple[TrainingRun, RunFolder]:
    """Read data and weights, refuse what will not do, and open the folder if it is not."""
    config = request.config
    device = choose_device(config.device)
    prepare_for_training()

    source = open_data(request.data, allow_outside=config.allow_outside)
    log.info("%s", source.description)
    train_split = source.read(request.split)
    val = source.read("val") if request.split == "train" and "val" in source.split_names else None
    weights = None
    if request.weights is not None:
        weights, info = load_weights(request.weights)
        config = _settings_of_weights(config, info, request.weights)
        _check_classes(info.class_names, train_split, request)
    input_hw = choose_input_size(config, train_split.annotations)
    if weights is not None and uses_spp(input_hw) != uses_spp(info.input_hw):
        raise InputError(
            f"{request.weights}: trained on an input of {max(info.input_hw)} pixels; networks for {max(input_hw)} "
            f"are of another make: give --imgsz {max(info.input_hw)}"
        )
    for step in (0, PLANNING_STEPS - 1):
        check_canvas(input_size_at(input_hw, step, PLANNING_STEPS, config), config)
    if config.patience and val is None:
        raise InputError("patience: there is no val split to see a better AP on; set patience=0")
    dataset = DetectionDataset(train_split, input_hw, config)
    for read in (train_split, val) if val else (train_split,):
        log.info("%s: %d images, %s", read.name, len(read.annotations), read.ledger.summary())
        for entry in read.ledger.entries[:10]:
            log.info("  %s", entry)
        read.ledger.check(config.allow_dropped)
    folder = out if isinstance(out, RunFolder) else RunFolder(out)
    folder.write_json("ledger.json", {read.name: read.ledger.to_json() for read in (train_split, val) if read})
    same_classes = weights is None or info.class_names == train_split.class_names
    run = TrainingRun(
        config, device, folder, dataset, train_split, val, source.description, started, weights, same_classes
    )
    return run, folder


def _settings_of_weights(config: Config, info: WeightsInfo, path: str) -> Config:
    """Return the settings with those of the network taken from the weights, and the canvas where it is free."""
    own = config_of(dict(info.config) | {"model": info.model})
    fixed = {name: getattr(own, name) for name in OF_THE_NETWORK}
    for name, value in fixed.items():
        if getattr(config, name) not in (value, getattr(Config, name)):
            raise InputError(f"{name}: {getattr(config, name)} does not fit {path}, which has {value}: leave it out")
    input_size = max(info.input_hw) if config.input_size == "auto" else config.input_size
    return replace(config, input_size=input_size, **fixed)


def _check_classes(class_names: tuple[str, ...], split: Split, request: _Request) -> None:
    if class_names != split.class_names and not request.reuse_backbone:
        raise InputError(
            f"{request.weights}: knows the classes {list(class_names)}, the data set has {list(split.class_names)}: "
            "--reuse-backbone takes over all but the last layers"
        )
