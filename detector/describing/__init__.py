"""The command `summary`: the layers of a network as a table."""
