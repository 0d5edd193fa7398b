"""Measure how well a detector learns from few images: AP on test for random subsets of the training images.

    python tools/few_images.py --data datasets/bccd.yaml --images 25 50 --start none everyday --set steps=250 --out few

Each number of images has the three random subsets in `few_images.json`; 0 means all images of the training split. With
`--unlabeled`, the other images of the training split are used without their labels. The last weights of each run are
evaluated on test. A run that is in `results.jsonl` already is not repeated.
"""

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from detector.config import Config, override
from detector.data.formats import coco_writer
from detector.data.open_data import open_data
from detector.data.split import Split, select, with_absolute_paths
from detector.evaluating.evaluate import evaluate
from detector.training.train import train

_SUBSETS = Path(__file__).with_suffix(".json")
"""Dataset → number of images → file names of the images of each subset."""


def choose_subsets(split: Split, sizes: Sequence[int], count: int = 3) -> dict[str, list[list[str]]]:
    """Return number of images → `count` random subsets, as sorted file names of the images."""
    names = sorted(annotation.image_path.name for annotation in split.annotations)
    return {
        str(size): [
            sorted(np.random.default_rng([size, number]).choice(names, size, replace=False).tolist())
            for number in range(count)
        ]
        for size in sizes
    }


def _subset(data: str, images: int, subset: int) -> list[str]:
    """Return the file names of the images of a subset."""
    names: list[str] = json.loads(_SUBSETS.read_text())[Path(data).stem][str(images)][subset]
    return names


def write_subset(data: str, images: int, subset: int, out: Path) -> Path:
    """Write the training images of a subset as COCO JSON, with absolute paths, and return the folder."""
    split = open_data(data).read("train")
    if images:
        names = set(_subset(data, images, subset))
        chosen = {a.image_id for a in split.annotations if a.image_path.name in names}
        assert len(chosen) == images, f"{data}: {len(chosen)} of {images} images found"
        split = select(split, "train", chosen)
    out.mkdir(parents=True, exist_ok=True)
    (out / "train.json").write_text(coco_writer.coco_text(out, with_absolute_paths(split)))
    return out


def write_unlabeled(data: str, images: int, subset: int, folder: Path) -> Path:
    """Write a list of the training images that are not in a subset, and return its path."""
    names = set(_subset(data, images, subset))
    paths = [
        a.image_path.resolve() for a in open_data(data).read("train").annotations if a.image_path.name not in names
    ]
    (folder / "unlabeled.txt").write_text("".join(f"{path}\n" for path in paths))
    return folder / "unlabeled.txt"


def measure(
    data: str, images: int, subset: int, start: str, settings: Sequence[str], out: Path, *, unlabeled: bool = False
) -> dict[str, Any]:
    """Train on a subset, with or without the other images as unlabeled images; return a row with the AP on test."""
    folder = write_subset(data, images, subset, out / f"{Path(data).stem}-{images}-{subset}")
    others = write_unlabeled(data, images, subset, folder) if unlabeled else None
    config = override(Config(), ["val_fraction=0", "allow_outside=true", f"seed={subset}", *settings])
    weights = None if start == "none" else start
    run = out / "run"
    shutil.rmtree(run, ignore_errors=True)
    trained = train(
        folder, config, out=run, split="train", weights=weights, reuse_backbone=weights is not None, unlabeled=others
    )
    ap = evaluate(data, trained.weights, split="test", intervals=False)
    return {"data": Path(data).stem, "images": images, "subset": subset, "AP": ap.AP, "AP50": ap.AP50}


def main() -> None:
    """Do all runs that are not done, and print the mean AP of the subsets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="datasets with the splits train and test")
    parser.add_argument("--images", type=int, nargs="+", default=[50], help="numbers of images; 0: all")
    parser.add_argument("--subsets", type=int, nargs="+", default=[0, 1, 2], help="numbers of the subsets, 0 to 2")
    parser.add_argument("--start", nargs="+", default=["none"], help="initial weights: none, a name or a path")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the runs")
    parser.add_argument("--unlabeled", action="store_true", help="use the other training images as unlabeled images")
    parser.add_argument("--name", default="", help="name of the settings in the results; default: the settings")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    settings = (options.name or " ".join(options.set)) + (" unlabeled" if options.unlabeled else "")
    for data in options.data:
        for images in options.images:
            for start in options.start:
                values = []
                for subset in options.subsets:
                    key = {"data": Path(data).stem, "images": images, "subset": subset, "start": start, "set": settings}
                    row = next((own for own in done if key.items() <= own.items()), None)
                    if row is None:
                        row = key | measure(
                            data, images, subset, start, options.set, options.out, unlabeled=options.unlabeled
                        )
                        with results.open("a") as file:
                            file.write(json.dumps(row) + "\n")
                    values.append(row["AP"])
                each = " ".join(f"{value:.3f}" for value in values)
                print(f"{Path(data).stem} {images} {start} {settings}: {np.mean(values):.3f} ({each})", flush=True)


if __name__ == "__main__":
    main()
