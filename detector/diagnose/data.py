"""All checks of a dataset before training.

Each `diagnose_*` function returns one `Finding`. In lists of splits, the first split is always the training split; the
other splits are evaluation splits.
"""

from collections.abc import Sequence
from dataclasses import replace

from detector.config import Config
from detector.data.near_duplicates import read_thumbnails
from detector.data.split import Split
from detector.diagnose.bit_depth import diagnose_bit_depth
from detector.diagnose.boxes import diagnose_boxes_with_two_classes, diagnose_duplicate_boxes, diagnose_unusual_boxes
from detector.diagnose.class_ids import diagnose_class_ids
from detector.diagnose.finding import Finding
from detector.diagnose.images import (
    diagnose_different_labels,
    diagnose_duplicate_images,
    diagnose_images,
    diagnose_leakage,
    diagnose_shared_files,
)
from detector.diagnose.input_size import diagnose_grid_points, diagnose_input_size, diagnose_small_objects
from detector.diagnose.label_fit import diagnose_label_fit
from detector.diagnose.label_shift import diagnose_label_shift
from detector.diagnose.labels import (
    diagnose_background,
    diagnose_class_balance,
    diagnose_class_distribution,
    diagnose_classes,
    diagnose_crowded_images,
    diagnose_objects,
    diagnose_rows,
)
from detector.diagnose.objects import gather_objects


def diagnose_data(
    splits: Sequence[Split], input_hw: tuple[int, int], config: Config, quick: bool = False
) -> list[Finding]:
    """Run the checks of a dataset, and return their findings.

    Args:
        splits: the training split first, then the evaluation splits. A split that was held back from the training split
            is not checked for what can only be wrong in a split of the dataset.
        input_hw: full height and width of the network input, in pixels.
        config: settings of the training run.
        quick: True: run only the checks of the annotations, and of the bit depth of a few images.

    Returns:
        The findings that follow from the data alone, then those that also depend on the settings.
    """
    objects = [gather_objects(split, input_hw) for split in splits]
    train = objects[0]
    defined = [split for split in splits if not split.held_back]
    from_data = [
        diagnose_rows(splits, config.allow_dropped),
        diagnose_objects(train),
        diagnose_crowded_images(objects),
        diagnose_background(splits),
        diagnose_classes(objects),
        diagnose_class_balance(train),
        diagnose_class_ids(objects),
        diagnose_class_distribution([own for own in objects if not own.split.held_back]),
        diagnose_shared_files(defined),
        diagnose_duplicate_boxes(objects),
        diagnose_boxes_with_two_classes(objects),
        diagnose_unusual_boxes(objects),
        diagnose_bit_depth(splits[0]),
    ]
    from_settings = [
        diagnose_input_size(train, input_hw, config),
        diagnose_small_objects(train, input_hw, config),
        diagnose_grid_points(train, config),
    ]
    if not quick:
        thumbnails = read_thumbnails(splits)
        from_data += [
            diagnose_images(thumbnails),
            diagnose_duplicate_images(thumbnails[0]),
            diagnose_different_labels(thumbnails),
            diagnose_leakage([own for own in thumbnails if not own.split.held_back]),
            diagnose_label_shift(splits[0]),
            diagnose_label_fit(splits[0]),
        ]
    return [*(replace(finding, from_data=True) for finding in from_data), *from_settings]
