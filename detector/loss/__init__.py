"""Grid predictions and objects to a loss."""
