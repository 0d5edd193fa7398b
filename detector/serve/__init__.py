"""A local page and a small JSON API around detectors; the packages of the extra `serve` do the HTTP."""
