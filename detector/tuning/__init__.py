"""The command `tune`: search for better settings, by one or many workers, and compare them with the defaults."""
