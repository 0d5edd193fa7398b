"""The network: backbone, neck and heads, from images to grid predictions; checkpoints."""
