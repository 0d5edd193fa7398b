"""Files that run without torch, and the proof that they answer like the weights they came from."""
