"""Checksums of the data of a run: equal if, and only if, the data gives the same weights and the same numbers."""

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

from detector.annotation import annotation_bytes
from detector.training.run_inputs import RunInputs


def data_facts(inputs: RunInputs) -> dict[str, object]:
    """Return the checksums of training images, unlabeled images, val images and classes of a run.

    They do not depend on paths, times of files, or ids of images and label rows, as long as their order stays the same.
    """
    val = hashlib.sha256()
    for image in inputs.val_images:
        val.update(annotation_bytes(image.annotation) + image.annotation.areas.tobytes())
        val.update(zlib.crc32(image.pixels.data).to_bytes(4))
    if inputs.val is not None and inputs.val.ground_truth is not None:
        val.update(_ground_truth_bytes(inputs.val.ground_truth))
    files = json.dumps(inputs.image_hashes.to_json())
    classes = json.dumps([inputs.split.class_names, inputs.split.category_ids])
    return {
        "data": f"{inputs.dataset.fingerprint}-{_digest(files.encode())[:8]}",
        "unlabeled": None if inputs.unlabeled is None else _digest(b"".join(inputs.unlabeled.hashes)),
        "val": None if inputs.val is None else val.hexdigest()[:16],
        "classes": _digest(classes.encode()),
        "transform": None if inputs.dataset.transform is None else inputs.dataset.transform.fact,
    }


def _ground_truth_bytes(truth: Mapping[str, Any]) -> bytes:
    """Return everything in a COCO dictionary on which AP depends, as bytes for a hash.

    Boxes and areas have all their digits here; `Annotation` rounds them to float32.
    """
    ranks = {image_id: rank for rank, image_id in enumerate(sorted(image["id"] for image in truth["images"]))}
    # COCO's evaluation treats an annotation with the id 0 as if it had no match.
    rows = [
        [
            ranks[row["image_id"]],
            row["category_id"],
            row["bbox"],
            row.get("area"),
            row.get("iscrowd", 0),
            not row.get("id"),
        ]
        for row in truth["annotations"]
    ]
    return json.dumps([len(ranks), rows]).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
