"""From a `Split` to training batches: data set in memory, input size schedule, data loader."""
