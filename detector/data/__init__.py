"""Reads datasets into splits: readers of label formats, ledger of label rows, near duplicates, built-in scenes."""
