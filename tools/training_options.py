"""Measure what options of training that concern classes do: AP on test for each option and seed.

    python tools/training_options.py --data datasets/fod31 --long-tail 0.05 --option "" repeat_factor=0.05 \
        class_balance=inverse --seeds 0 1 --set steps=300 --out options

With `--long-tail`, the training images are a subset in which classes are rare: of the images whose first object has
class k of C, in a fixed random order of the classes, the fraction `long_tail ** (k / (C - 1))` is kept (Cui et al.,
2019, section 5.1). With `--divide CLASS CLASS`, the training images are divided at random into two datasets, of which
the first does not label the first class, and the second not the second class. The test split stays as it is. The last
weights of each run are evaluated. A run that is in `results.jsonl` already is not repeated. At the end, a table of all
runs in this file is printed.
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
from detector.data.class_mapping import choose_classes
from detector.data.formats import coco_writer
from detector.data.open_data import open_data
from detector.data.split import Split, select, with_absolute_paths
from detector.evaluating.evaluate import evaluate
from detector.loader.class_balance import count_objects
from detector.trained_classes import ClassChoice
from detector.training.train import train


def long_tail(split: Split, ratio: float) -> Split:
    """Return a part of a split in which the rarest class has `ratio` times as many images as the most frequent."""
    classes = np.random.default_rng(0).permutation(len(split.class_names)).tolist()
    chosen: set[int] = set()
    for rank, class_id in enumerate(classes):
        own = [a.image_id for a in split.annotations if len(a.class_ids) and a.class_ids[0] == class_id]
        count = max(1, round(len(own) * ratio ** (rank / (len(classes) - 1))))
        chosen.update(np.random.default_rng([1, class_id]).permutation(own)[:count].tolist())
    return select(split, "train", chosen)


def training_split(data: str, ratio: float) -> Split:
    """Return the images to train on: the training split of a dataset, or a part of it with a long tail."""
    split = open_data(data).read("train")
    return long_tail(split, ratio) if ratio < 1 else split


def write(split: Split, divide: Sequence[str], out: Path) -> list[Path]:
    """Write the images to train on as one dataset, or as two of which each does not label one class."""
    parts = [split]
    if divide:
        ids = np.random.default_rng(2).permutation([a.image_id for a in split.annotations]).tolist()
        halves = [set(ids[: len(ids) // 2]), set(ids[len(ids) // 2 :])]
        names = [tuple(name for name in split.class_names if name != absent) for absent in divide]
        parts = [
            choose_classes(select(split, "train", half), ClassChoice(own))
            for half, own in zip(halves, names, strict=True)
        ]
    folders = []
    for number, part in enumerate(parts):
        folders.append(out / f"data{number}")
        folders[-1].mkdir(parents=True, exist_ok=True)
        text = coco_writer.coco_text(folders[-1], with_absolute_paths(part))
        (folders[-1] / "train.json").write_text(text)
    return folders


def measure(
    data: str, split: Split, divide: Sequence[str], option: str, seed: int, settings: Sequence[str], out: Path
) -> dict[str, Any]:
    """Train once; return a row with AP on test, and the mean AP of the rarer half of the classes.

    Args:
        data: the dataset with the test split.
        split: the images to train on.
        divide: as for `write`.
        option: settings, separated by spaces.
        seed: seed of the run.
        settings: settings of all runs.
        out: folder for the run.
    """
    folders = write(split, divide, out)
    config = override(Config(), ["val_fraction=0", "allow_outside=true", f"seed={seed}", *settings, *option.split()])
    shutil.rmtree(out / "run", ignore_errors=True)
    trained = train(folders, config, out=out / "run", split="train")
    ap = evaluate(data, trained.folder / "weights" / "last.safetensors", split="test", intervals=False)
    counts = count_objects(split.annotations, len(split.class_names))
    order = np.argsort(counts, kind="stable")
    per_class = {split.class_names[i]: ap.per_class[split.class_names[i]]["AP"] for i in order}
    rare = list(per_class.values())[: len(order) // 2]
    row = {"AP": ap.AP, "AP50": ap.AP50, "AP_rare": float(np.mean(rare))}
    return row | {"objects": {split.class_names[i]: int(counts[i]) for i in order}, "per_class": per_class}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows of a Markdown table: for each option, the AP and the AP of the rare classes of each seed."""
    lines = []
    for key in dict.fromkeys((row["data"], row["long_tail"], tuple(row["divide"]), row["option"]) for row in rows):
        own = [row for row in rows if (row["data"], row["long_tail"], tuple(row["divide"]), row["option"]) == key]
        values = [
            f"{np.mean([row[name] for row in own]):.3f} ({', '.join(f'{row[name]:.3f}' for row in own)})"
            for name in ("AP", "AP_rare")
        ]
        name = f"`{key[0]}`" + (f", long tail {key[1]:g}" if key[1] < 1 else "")
        name += f", two sets without {key[2][0]} and {key[2][1]}" if key[2] else ""
        lines.append(f"| {name} | {key[3] or 'default'} | {' | '.join(values)} |")
    return lines


def main() -> None:
    """Parse the arguments, and measure each option with each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="dataset with the splits train and test")
    parser.add_argument("--long-tail", type=float, default=1.0, help="rarest class / most frequent class, in images")
    parser.add_argument("--divide", nargs=2, default=[], metavar="CLASS", help="two datasets, each without one class")
    parser.add_argument("--option", nargs="+", default=[""], help="settings of each option, separated by spaces")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], help="setting of all runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.jsonl")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    keys = ("data", "long_tail", "divide", "option", "seed", "set")
    done = {json.dumps([row[key] for key in keys]) for row in rows}
    split = training_split(options.data, options.long_tail)
    for seed in options.seeds:
        for option in options.option:
            values = (Path(options.data).stem, options.long_tail, options.divide, option, seed, options.set)
            if json.dumps(list(values)) in done:
                continue
            own = measure(options.data, split, options.divide, option, seed, options.set, options.out)
            row = dict(zip(keys, values, strict=True)) | {"images": len(split.annotations)} | own
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            rows.append(row)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
