"""The training loss: assignment of objects to grid points, and the terms of the loss."""
