"""The neural network: backbone, neck, heads, predictions and initial weights; reading and writing of weights files."""
