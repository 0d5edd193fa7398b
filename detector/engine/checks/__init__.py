"""What can be told about data, network and learning in a minute, before a long run: each check gives one finding."""
