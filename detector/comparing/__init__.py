"""The command `compare`: train with different settings, and summarize the AP of all runs in a table."""
