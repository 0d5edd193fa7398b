"""The command `serve`: an HTTP server with a web page and an API, which runs detectors on uploaded images."""
