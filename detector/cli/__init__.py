"""The command line: argument parser, commands and console output."""
