"""Addresses of pictures and streams: which may be asked, and how they are shown."""

import re

from detector.errors import InputError

_WEB = re.compile("https?://", re.IGNORECASE)


def is_on_web(word: str) -> bool:
    """Tell whether a word is an address on the web.

    >>> [is_on_web(word) for word in ("HTTP://a.b/c.jpg", "rtsp://a.b/c", "http.jpg")]
    [True, False, False]
    """
    return _WEB.match(word) is not None


def without_secrets(word: str) -> str:
    """Return an address without user and password, and without a query, where tokens stand; anything else as it is.

    >>> [without_secrets(word) for word in ("https://me:secret@host/a.jpg?token=secret", "a?b.jpg")]
    ['https://host/a.jpg', 'a?b.jpg']
    """
    return re.sub("(?<=://)[^/]*@", "", re.split("[?#]", word)[0]) if "://" in word else word


def check_allowed(word: str, allow_url: bool) -> None:
    """Raise InputError if a word is an address on the web, and none is allowed."""
    if is_on_web(word) and not allow_url:
        raise InputError(f"{without_secrets(word)}: nothing is fetched from the network without --allow-url")
