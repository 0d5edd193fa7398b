"""URLs in place of the local folders in which their files are: messages and results name what the user named.

`mirror.py` and `remote_folder.py` work in local folders whose names mean nothing to the user. They add these folders
here, and every text that leaves the program passes through `with_urls`: messages, what the command line prints, and
the files that the commands write.
"""

from pathlib import Path

_URLS: dict[str, str] = {}
"""Local folder → URL."""


def add_url(folder: Path, url: str) -> None:
    """Show a URL in place of a local folder from now on."""
    _URLS[str(folder)] = url.rstrip("/")


def with_urls(text: str) -> str:
    """Return a text in which the local folders of URLs are replaced by these URLs."""
    for folder, url in list(_URLS.items()):
        text = text.replace(folder, url)
    return text
