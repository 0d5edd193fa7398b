"""The command `summary`: print the layers of a network as a table."""
