"""All label formats whose rows name their classes, in the order in which a folder is searched for them."""

from detector.data.formats import createml, csv_table, cvat, supervisely, via, via_csv, voc
from detector.data.image_labels import LabelFormat

NAMED_FORMATS: tuple[LabelFormat, ...] = (
    voc.FORMAT,
    createml.FORMAT,
    via.FORMAT,
    supervisely.FORMAT,
    cvat.FORMAT,
    via_csv.FORMAT,
    csv_table.FORMAT,
)
"""The formats. A file matches at most one of them."""
