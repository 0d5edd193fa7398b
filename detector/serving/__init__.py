"""The command `serve`: a web page and an HTTP API for detectors."""
