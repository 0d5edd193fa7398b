"""Pictures to grid predictions."""
