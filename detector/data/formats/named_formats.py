"""All label formats whose rows name their classes, in the order in which a folder is searched for them."""

from detector.data.formats import voc

NAMED_FORMATS = (voc.FORMAT,)
