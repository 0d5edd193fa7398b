"""Reads and converts the untrusted contents of label files: JSON, XML, CSV, numbers, names and shapes."""
