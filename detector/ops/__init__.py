"""Box operators without state."""
