"""Finds images (files, folders, glob patterns, lists, URLs), reads videos, cameras and streams, and writes videos."""
