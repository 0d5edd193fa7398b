"""The training loss: assignment of grid points to objects, and the loss terms."""
