"""The network: backbone, neck and heads, from uint8 images to predictions; and weights files."""
