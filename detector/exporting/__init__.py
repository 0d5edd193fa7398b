"""The commands `export` and `verify`: graph files with a certificate of parity with their weights."""
