"""The command `average`: one network whose weights are the mean of those of several networks."""
