"""What the data themselves tell before anything is learned; NumPy, never torch.

Each check is a function that gives one `Finding`. The first split is always the one to learn from, the others are those
to evaluate on.
"""

from collections.abc import Sequence

from detector.config import Config
from detector.data.near_duplicates import read_thumbnails
from detector.data.split import Split
from detector.diagnose.finding import Finding
from detector.diagnose.images import check_images, check_leakage, check_repeated_images, check_shared_files
from detector.diagnose.label_shift import check_label_shift
from detector.diagnose.labels import (
    check_background,
    check_balance,
    check_class_ids,
    check_class_shares,
    check_classes,
    check_odd_boxes,
    check_repeated_boxes,
    check_rows,
    check_two_classes,
)
from detector.diagnose.objects import gather
from detector.diagnose.resolution import check_canvas, check_points, check_small_objects


def check_data(
    splits: Sequence[Split], input_hw: tuple[int, int], config: Config, quick: bool = False
) -> list[Finding]:
    """Run every check of the data.

    Args:
        splits: the one to learn from first.
        input_hw: full size of the network's images.
        config: settings of the run.
        quick: only what the annotations tell, without decoding images.
    """
    objects = [gather(split, input_hw) for split in splits]
    train = objects[0]
    findings = [
        check_rows(splits, config.allow_dropped),
        check_background(splits),
        check_classes(objects),
        check_balance(train),
        check_class_ids(objects),
        check_class_shares(objects),
        check_shared_files(splits),
        check_repeated_boxes(objects),
        check_two_classes(objects),
        check_odd_boxes(objects),
        check_canvas(train, input_hw),
        check_small_objects(train, input_hw),
        check_points(train, config),
    ]
    if not quick:
        thumbnails = read_thumbnails(splits)
        findings += [
            check_images(thumbnails),
            check_repeated_images(thumbnails[0]),
            check_leakage(thumbnails),
            check_label_shift(splits[0]),
        ]
    return findings
