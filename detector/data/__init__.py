"""From files to batches: the readers, the account of every row, augmentation, and the one way into torch."""
