"""Build training batches from a `Split`: dataset in memory, input size schedule, data loader."""
