"""The command `serve`: a web page and an HTTP API on top of detectors."""
