"""The command `detector check`: checks data, network, learning and cost before a long training run."""
