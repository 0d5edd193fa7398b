"""Prepares a training run: reads its data, and checks that data, settings and initial weights fit each other."""

import logging
from collections.abc import Mapping
from dataclasses import fields, replace

from detector.augment.own_transform import load_transform
from detector.config import ArchitectureConfig, Config, config_of
from detector.data.joined_data import choose_training_classes, describe, open_all, read_joined_splits
from detector.data.ledger import Ledger
from detector.data.objects import check_has_objects, has_objects
from detector.data.split import Split
from detector.data.training_splits import TrainingSplits
from detector.errors import ConfigError, WeightsError
from detector.evaluating.evaluate import LetterboxedImage, read_letterboxed_split
from detector.image_hashes import NO_IMAGES
from detector.loader.dataset import DetectionDataset, copy_paste_fraction, transform_samples
from detector.loader.input_size import check_multi_scale, choose_input_size, input_stages, without_resizing
from detector.model.network import GridNetwork, check_padding, uses_spp
from detector.trained_classes import TrainedClasses, changed_groups
from detector.training.distributed import Processes
from detector.training.initial_weights import start_facts
from detector.training.run_inputs import RunInputs
from detector.training.run_record import TrainRequest
from detector.training.unlabeled import NAME, read_unlabeled
from detector.weights_info import WeightsInfo
from detector.wording import few_names, plural

log = logging.getLogger(__name__)

_ENTRIES_SHOWN = 10
"""Largest number of different ledger entries that are logged for a split."""


def prepare(
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
