"""Build training batches from a `Split`: data set in memory, input size schedule, data loader."""
