"""Commands that write a data set: `detector convert`."""
