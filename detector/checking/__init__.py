"""The command `detector check`: findings about data, network, learning and cost before a long training run."""
