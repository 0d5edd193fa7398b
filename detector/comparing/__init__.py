"""The command `compare`: training runs with different settings, summarized in a table."""
