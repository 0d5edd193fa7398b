"""The training loss: assigns objects to grid points, and computes the terms of the loss."""
