"""The command `restyle`: writes a copy of a data set with the colors and textures of other images."""
