"""Data augmentation: functions `(sample, rng) -> sample` for flips, scaling, color, mosaic, mixup and copy-paste."""
