"""The commands `convert` and `split`: write a dataset in another format, or lists of its images."""
