"""The command `restyle`: writes a copy of a dataset with the colors and textures of other images."""
