"""The commands `export` and `verify`: write a graph file, and compare its detections with those of its weights."""
