"""The command `train`: one training run with its schedule, optimizer, state and output folder."""
