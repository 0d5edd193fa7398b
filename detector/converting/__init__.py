"""The commands `convert` and `split`: write a data set in another format, or lists of its images."""
