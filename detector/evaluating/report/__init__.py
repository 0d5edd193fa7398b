"""The report of an evaluation: one web page without other files, its numbers as JSON, and its plots as SVG files."""
