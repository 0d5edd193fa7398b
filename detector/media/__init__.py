"""Image sources (files, folders, globs, lists, URLs) and video input and output (files, cameras, streams)."""
