"""The command `check`: all diagnostics, plus those that have to train a little."""
