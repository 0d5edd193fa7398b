"""The version of the package, which stands in pyproject.toml too; a test holds them equal."""

VERSION = "0.1.0"
