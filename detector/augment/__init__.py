"""Data augmentation: functions that change samples at random: flips, scale, color, mosaic, mixup, copy-paste."""
