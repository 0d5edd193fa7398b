"""Measure whether restyled training images help in a town that was not trained on: AP on `carla`, Town05.

    python tools/restyle_carla.py --data datasets/carla.yaml --out town05

The training images are frames of the other towns: the subset of `few_images.json` with the number of the seed. The
style images are the frames of Town05 in `restyle_carla.json`, every fifth in the order of time, whose labels are not
used; the other frames of Town05 are the test images. The shipped weights `everyday` are the features of the style
transfer and the initial weights of each run. A run that is in `results.jsonl` already is not repeated.
"""

import argparse
import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from few_images import write_subset  # type: ignore[import-not-found]

from detector.config import Config, override
from detector.data.formats import coco_writer
from detector.data.open_data import open_data
from detector.data.split import Split, join, select, with_absolute_paths
from detector.evaluating.evaluate import evaluate
from detector.restyling.restyle import restyle
from detector.training.train import train

_STYLES = Path(__file__).with_suffix(".json")
"""File names of the style images."""

_INPUT_SIZE = 320

VARIANTS = {
    "plain": ("plain", []),
    "restyled": ("restyled", []),
    "plain and restyled": ("joined", []),
    "restyled, own colors": ("texture", []),
    "stronger colors": ("plain", ["color_gain=0.5", "brightness=40", "saturation=0.5", "pca_color=0.3"]),
    "style_shift=0.5": ("plain", ["style_shift=0.5"]),
}
"""Variant → (training set, settings)."""


def write_split(split: Split, name: str, folder: Path) -> None:
    """Write a split as COCO JSON with absolute paths of its images."""
    folder.mkdir(parents=True, exist_ok=True)
    split = with_absolute_paths(replace(split, name=name, ground_truth=None))
    (folder / f"{name}.json").write_text(coco_writer.coco_text(folder, split))


def write_test(data: str, out: Path) -> list[str]:
    """Write the test set, and return the paths of the style images."""
    names = json.loads(_STYLES.read_text())
    test = open_data(data).read("test")
    styles = [a for a in test.annotations if a.image_path.name in names]
    assert len(styles) == len(names), f"{len(styles)} of {len(names)} style images found"
    rest = select(test, "test", {a.image_id for a in test.annotations} - {a.image_id for a in styles})
    write_split(rest, "test", out / "test")
    return [str(a.image_path) for a in styles]


def training_set(name: str, subset: int, styles: list[str], options: argparse.Namespace) -> Path:
    """Return the folder of a training set; write it if it does not exist yet."""
    folder = Path(options.out / f"{name}-{options.images}-{subset}")
    if (folder / "train.json").exists():
        return folder
    if name == "plain":
        write_subset(options.data, options.images, subset, folder)
        return folder
    if name == "joined":
        folders = [training_set(own, subset, styles, options) for own in ("plain", "restyled")]
        parts = [open_data(own, allow_outside=True).read("train") for own in folders]
        write_split(join("train", *parts), "train", folder)
        return folder
    plain = training_set("plain", subset, styles, options)
    keeps_colors = name == "texture"
    restyle(
        plain, styles, folder,
        max_side=_INPUT_SIZE, keep_colors=keeps_colors, seed=subset, allow_outside=True,
    )  # fmt: skip
    return folder


def measure(variant: str, seed: int, styles: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Train one variant on one subset of the images, and return AP and AP50 on the test set."""
    name, settings = VARIANTS[variant]
    folder = training_set(name, seed, styles, options)
    fixed = ["val_fraction=0", "allow_outside=true", f"input_size={_INPUT_SIZE}", "batch=8"]
    config = override(Config(), [*fixed, f"steps={options.steps}", f"seed={seed}", *settings])
    run = options.out / "run"
    shutil.rmtree(run, ignore_errors=True)
    trained = train(folder, config, out=run, split="train")
    ap = evaluate(options.out / "test", trained.weights, split="test", intervals=False, allow_outside=True)
    return {"AP": ap.AP, "AP50": ap.AP50}


def main() -> None:
    """Do all runs that are not done, and print the AP of each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="datasets/carla.yaml", help="the dataset `carla`")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of the runs")
    parser.add_argument("--steps", type=int, default=150, help="number of training steps")
    parser.add_argument("--images", type=int, default=25, choices=(25, 50, 200), help="number of training images")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    styles = write_test(options.data, options.out)
    results = options.out / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for seed in options.seeds:
        for variant in options.variants:
            key = {"variant": variant, "seed": seed, "images": options.images, "steps": options.steps}
            if not any(key.items() <= row.items() for row in rows):
                rows.append(key | measure(variant, seed, styles, options))
                with results.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
            same = {name: value for name, value in key.items() if name != "seed"}
            own = [row for row in rows if same.items() <= row.items()]
            each = " ".join(f"{row['AP']:.3f}" for row in own)
            print(f"{variant}: AP {np.mean([row['AP'] for row in own]):.3f} ({each})", flush=True)


if __name__ == "__main__":
    main()
