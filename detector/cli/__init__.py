"""The command line: argument parser, commands, console output."""
