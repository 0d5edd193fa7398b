"""One training run: its plan, its steps, its folder and its state."""
