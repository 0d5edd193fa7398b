"""`restyle`: writes a copy of a split with the colors and textures of style images, and the same labels."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from detector.arrays import ImageArray, Ints
from detector.config import config_of
from detector.data.formats import coco_writer
from detector.data.open_data import open_data
from detector.data.split import SPLITS, Split, evenly_spaced
from detector.data.training_splits import choose_training_split
from detector.errors import ConfigError, FileError, InputError
from detector.files import free_name, json_bytes, local_path, safe_name
from detector.graceful_shutdown import GracefulShutdown
from detector.images import write_image
from detector.letterbox import letterbox_image
from detector.media.sources import Source, find_sources
from detector.model.checkpoint import load_weights
from detector.options import MAX_PIXELS, ReadOptions, StyleOptions
from detector.output_folder import OutputFolder, claim_folder
from detector.plots.sheet import arrange_in_grid, short_name, with_text
from detector.progress import progress_bar
from detector.restyling.style_transfer import StyleTransfer
from detector.wording import plural

log = logging.getLogger(__name__)

_WEIGHTS = "everyday"
_LEDGER, _SHEET = "ledger.json", "sheet.jpg"

_EXAMPLES = 8
"""Largest number of images on the sheet."""

_TILE_HW = (240, 320)
"""Height and width of an image on the sheet, in pixels."""


@dataclass(frozen=True)
class RestyledData:
    """What `restyle` wrote.

    Attributes:
        folder: the folder of the new dataset.
        split: its only split; the ledger says what happened to each label row of the source.
        failed: path of an image that was left out → the reason.
        styles: number of style images that were used.
        notes: what the user should know, as lines of text.
    """

    folder: Path
    split: Split
    failed: Mapping[Path, str]
    styles: int
    notes: tuple[str, ...]


def restyle(
    data: str | Path,
    style: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    split: str | None = None,
    weights: str | Path | None = None,
    steps: int = StyleOptions.steps,
    style_weight: float = StyleOptions.style_weight,
    max_side: int = StyleOptions.max_side,
    keep_colors: bool = StyleOptions.keep_colors,
    styles_per_image: int = 1,
    seed: int = 0,
    allow_outside: bool = False,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
) -> RestyledData:
    """Write the images of a split with the style of other images, and the same labels, as a new dataset (COCO JSON).

    The size of the images and all boxes stay the same. Writes the label file, the images, `ledger.json` with the style
    images of each image, and `sheet.jpg` with examples. Images that cannot be read are left out, with their labels, as
    in training. The same arguments always give the same pixels on the same machine.

    Args:
        data: the dataset, in any form that `open_data` accepts.
        style: style images: files, folders or glob patterns. They need no labels. They are shuffled, and each image
            gets the next one.
        out: folder for the new dataset, outside of the dataset.
        split: the split to restyle; None: "train", or the only split.
        weights: weights whose backbone computes the features: a path, or the name of shipped weights.
        steps: number of steps of L-BFGS at each of three sizes of the image.
        style_weight: weight of the style relative to the content.
        max_side: largest long side in pixels at which the texture is found; it is enlarged for larger images.
        keep_colors: whether images keep their colors, and get only the texture of the style images.
        styles_per_image: number of style images of an image, whose statistics are averaged.
        seed: seed of the order of the style images.
        allow_outside: as for `open_data`.
        max_pixels: largest number of pixels of an image.
        overwrite: whether to replace files in `out` that this package did not write, or that were changed since.

    Raises:
        InputError: an argument is wrong, or a file cannot be read or written. Nothing is written if a style image
            cannot be read.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the dataset contains the images that were complete.

    Source: see `style_transfer`.
    """
    options = StyleOptions(steps=steps, style_weight=style_weight, max_side=max_side, keep_colors=keep_colors)
    folder = local_path(out)
    data_set = open_data(local_path(data), allow_outside=allow_outside, max_pixels=max_pixels)
    source = data_set.read(choose_training_split(data_set, split))
    _check_outside(folder, Path(data), source)
    specs = [style] if isinstance(style, str | Path) else style
    styles = find_sources([str(spec) for spec in specs], ReadOptions(max_pixels=max_pixels))
    choice = choose_styles(len(source.annotations), len(styles), styles_per_image, seed)
    used = _check_readable(styles, choice)
    job = _Job(_load_transfer(weights or _WEIGHTS, options), source, styles, choice, folder)
    notes = list(_notes(data_set.split_names, source.name, len(styles), used))
    for note in notes:
        log.info("%s", note)
    names = [_LEDGER, _SHEET, f"{job.target.name}.json", *job.names]
    with claim_folder(folder, "restyling", names=names, overwrite=overwrite) as output, GracefulShutdown() as stop:
        reasons = job.write_images(output, stop)
        if len(reasons) == len(source.annotations) and stop.requested:
            raise KeyboardInterrupt
        target = job.target.after_decoding(reasons)
        output.write(f"{target.name}.json", coco_writer.coco_text(folder.resolve(), target).encode())
        arguments = {"data": str(data), "split": source.name, "weights": str(weights or _WEIGHTS), "seed": seed}
        ledger = arguments | asdict(options) | {"notes": notes, "labels": target.ledger.to_json()}
        output.write(_LEDGER, json_bytes(ledger | {"images": job.rows(reasons)}))
    if stop.requested:
        log.warning("%s: stopped after %s; they are kept", folder, plural(len(target.annotations), "image"))
        raise KeyboardInterrupt
    failed = {a.image_path: reasons[a.image_id] for a in source.annotations if a.image_id in reasons}
    return RestyledData(folder, target, failed, used, tuple(notes))


def choose_styles(images: int, styles: int, per_image: int, seed: int) -> Ints:
    """Return the style images of each image [images, per_image]: shuffled, then in turn, so that all are used equally.

    Raises:
        ConfigError: `per_image` is less than 1, or more than the number of style images.
    """
    if not 1 <= per_image <= styles:
        raise ConfigError(f"styles_per_image: expected 1 to {styles}, the number of style images, got {per_image}")
    order = np.random.default_rng(seed).permutation(styles)
    return np.asarray(order[np.arange(images * per_image).reshape(images, per_image) % styles], dtype=np.int64)


def _check_readable(styles: Sequence[Source], choice: Ints) -> int:
    """Decode all style images that are used, and return their number; raise InputError if one cannot be read."""
    used = np.unique(choice)
    for index in used:
        try:
            styles[index].read()
        except InputError as error:
            raise type(error)(f"style image {error}; remove it from the style images") from None
    return len(used)


def _load_transfer(weights: str | Path, options: StyleOptions) -> StyleTransfer:
    """Return the style transfer with the backbone of the weights."""
    network, info = load_weights(weights)
    if config_of(dict(info.config)).padding != "same":
        raise ConfigError(f"{weights}: these weights have padding=valid, which needs large images; use other weights")
    return StyleTransfer(network, options)


def _check_outside(folder: Path, data: Path, split: Split) -> None:
    """Raise FileError if the new dataset would be a part of the source."""
    places = {a.image_path.parent.resolve() for a in split.annotations} if split.from_files else set()
    places |= {data.resolve()} if data.is_dir() else set()
    for place in sorted(places):
        if folder.resolve().is_relative_to(place):
            raise FileError(f"{folder}: is inside of {place}, a folder of the dataset; choose another --out")


def _notes(split_names: Sequence[str], name: str, styles: int, used: int) -> list[str]:
    """Return lines of text about the splits and the style images that are not used."""
    notes = [f"the split {other} is not restyled, and not written" for other in split_names if other != name]
    if used < styles:
        notes.append(f"{used} of {styles} style images are used: there are more than images to restyle")
    return notes


class _Job:
    """The images to restyle, their style images, and where they are written.

    Args:
        transfer: the style transfer.
        source: the split to restyle.
        styles: all style images.
        choice: [images, styles per image]: the style images of each image.
        folder: the folder of the new dataset.

    Attributes:
        target: the split with the paths of the new images.
        names: names of the new images, relative to the folder, in the order of the images.
    """

    def __init__(
        self, transfer: StyleTransfer, source: Split, styles: Sequence[Source], choice: Ints, folder: Path
    ) -> None:
        self._transfer, self._source, self._styles, self._choice = transfer, source, styles, choice
        name = source.name if source.name in SPLITS else "train"
        taken: dict[str, int] = {}
        stems = [free_name(safe_name(a.image_path.stem), taken) for a in source.annotations]
        self.names = [f"images/{name}/{stem}.jpg" for stem in stems]
        moved = (
            replace(a, image_path=folder.resolve() / own) for a, own in zip(source.annotations, self.names, strict=True)
        )
        self.target = replace(source, name=name, annotations=tuple(moved), ground_truth=None, from_files=True)
        coco_writer.WRITER.check([self.target])

    def write_images(self, output: OutputFolder, stop: GracefulShutdown) -> dict[int, str]:
        """Write the new images and the sheet; return image id → reason, for each image that was not written."""
        annotations, reasons, tiles = self._source.annotations, dict[int, str](), list[ImageArray]()
        shown = set(evenly_spaced(range(len(annotations)), _EXAMPLES))
        for index, annotation in enumerate(progress_bar(annotations, unit="image")):
            if stop.requested:
                reasons[annotation.image_id] = "not restyled: the command was interrupted"
                continue
            try:
                image = self._source.decode(annotation)
            except InputError as error:
                reasons[annotation.image_id] = str(error)
                log.warning("skipped: %s", error)
                continue
            styles = [self._styles[number].read() for number in self._choice[index]]
            restyled = self._transfer.apply(image, styles)
            with output.writing(self.names[index], suffix=".jpg") as part:
                write_image(part, restyled)
            if index == 0:
                output.remove_earlier()
            if index in shown:
                tiles += self._tiles(index, [image, styles[0], restyled])
        if tiles:
            with output.writing(_SHEET, suffix=".jpg") as part:
                write_image(part, arrange_in_grid(tiles, columns=min(6, len(tiles))))
        return reasons

    def rows(self, reasons: Mapping[int, str]) -> list[dict[str, object]]:
        """Return for each image its path, the new file and the style images, or the reason why it was left out."""
        return [
            {"image": str(annotation.image_path)}
            | (
                {"left_out": reasons[annotation.image_id]}
                if annotation.image_id in reasons
                else {"new": name, "styles": [str(self._styles[number].name) for number in numbers]}
            )
            for annotation, name, numbers in zip(self._source.annotations, self.names, self._choice, strict=True)
        ]

    def _tiles(self, index: int, images: Sequence[ImageArray]) -> list[ImageArray]:
        """Return the tiles of an image: before, the (first) style image, after."""
        first, *others = self._choice[index]
        style = self._styles[first].name
        more = f" and {plural(len(others), 'more image')}" if others else ""
        path = self._source.annotations[index].image_path
        texts = [["image", short_name(path, _TILE_HW[1])], [f"style{more}", short_name(style, _TILE_HW[1])]]
        texts.append(["restyled", short_name(Path(self.names[index]), _TILE_HW[1])])
        return [with_text(letterbox_image(image, _TILE_HW)[1], text) for image, text in zip(images, texts, strict=True)]
