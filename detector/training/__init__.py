"""The command `train`: one training run with its schedule, optimizer, checkpoints and output folder."""
