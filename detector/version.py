"""The version of the package, from which the build takes it."""

VERSION = "0.1.0"
