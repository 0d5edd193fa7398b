"""All label formats whose rows name their classes, in the order in which a folder is searched for them."""

from detector.data.formats import (
    createml,
    csv_table,
    cvat,
    datumaro,
    imagefolder,
    imagefolder_csv,
    keras_txt,
    kitti,
    label_studio,
    labelme,
    name_text,
    openimages,
    sagemaker,
    supervisely,
    via,
    via_csv,
    voc,
)
from detector.data.image_labels import LabelFormat

NAMED_FORMATS: tuple[LabelFormat, ...] = (
    voc.FORMAT,
    createml.FORMAT,
    via.FORMAT,
    supervisely.FORMAT,
    labelme.FORMAT,
    label_studio.FORMAT,
    datumaro.FORMAT,
    imagefolder.FORMAT,
    sagemaker.FORMAT,
    cvat.FORMAT,
    via_csv.FORMAT,
    openimages.FORMAT,
    imagefolder_csv.FORMAT,
    csv_table.FORMAT,
    kitti.FORMAT,
    name_text.FORMAT,
    keras_txt.FORMAT,
)
"""The formats. A file matches at most one of them."""
