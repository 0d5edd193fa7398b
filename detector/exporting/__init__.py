"""The commands `export` and `verify`: graph files and the certificates of their parity with the weights."""
