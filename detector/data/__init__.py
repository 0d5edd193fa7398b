"""Reads data sets from files into splits: format readers, ledger of label rows, near duplicates, built-in scenes."""
