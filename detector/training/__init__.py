"""The command `train`: a training run, with schedules, optimizers, checkpoints and an output folder."""
