"""Addresses of images and streams: which may be asked, how they are shown, and what is there."""

import re
import time
from base64 import b64encode
from concurrent.futures import Future
from http.client import HTTPException, responses
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from detector.arrays import ImageArray
from detector.errors import InputError
from detector.files import safe_name
from detector.images import IMAGE_SUFFIXES, read_image
from detector.version import VERSION

_SECONDS = 20.0
"""Longest time that fetching one image may take."""

MOST_BYTES = 50_000_000
"""Largest image file that is taken from the network or from standard input."""

_MOST_REDIRECTS = 3

_WEB = re.compile("https?://", re.IGNORECASE)


def is_on_web(word: str) -> bool:
    """Tell whether a word is an address on the web.

    >>> [is_on_web(word) for word in ("HTTP://a.b/c.jpg", "rtsp://a.b/c", "http.jpg")]
    [True, False, False]
    """
    return _WEB.match(word) is not None


def without_secrets(word: str) -> str:
    """Return an address without user and password, and without a query, where tokens stand; anything else as it is.

    >>> [without_secrets(word) for word in ("https://me:secret@host/a.jpg?token=secret", "http:///a:b@c", "a?b.jpg")]
    ['https://host/a.jpg', 'http:///c', 'a?b.jpg']
    """
    return re.sub("//[^/]*@", "//", re.split("[?#]", word)[0]) if "://" in word else word


def check_allowed(word: str, allow_url: bool) -> None:
    """Raise InputError if a word is an address on the web, and none is allowed."""
    if is_on_web(word) and not allow_url:
        raise InputError(f"{without_secrets(word)}: nothing is fetched from the network without --allow-url")


def name_of(url: str) -> Path:
    """Return what results call the image at a URL: the last part of the path.

    Raises:
        InputError: it is no URL.

    >>> name_of("https://host/x/cat%20%2F%201.jpg?size=9").name
    'cat _ 1.jpg'
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None  # to ask for the port is to check it
    except ValueError:
        host = None
    if not host:
        # Which part of it is a password cannot be told: all before the last @ may be.
        shown = url.rpartition("@")[2].partition("?")[0]
        raise InputError(f"{shown[:100]}: not a URL that can be fetched; expected http://host/image.jpg")
    path = PurePosixPath(parts.path)
    last = unquote(path.name) or host
    suffix = path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else ""
    return Path(safe_name(last.removesuffix(suffix)) + suffix)


def fetch(url: str) -> ImageArray:
    """Fetch an image; raises InputError if that fails, takes too long, or gives something else or too much."""
    shown = without_secrets(url)
    answer: Future[bytes] = Future()

    def transfer() -> None:
        try:
            answer.set_result(_transfer(url))
        except BaseException as error:
            answer.set_exception(error)

    # In a thread of its own: the timeout of a connection limits neither the search for the host nor a server that says
    # a word now and then.
    Thread(target=transfer, daemon=True).start()
    try:
        data = answer.result(_SECONDS)
    except TimeoutError:
        raise InputError(f"{shown}: takes longer than {_SECONDS:g} seconds") from None
    except InputError as error:
        raise InputError(f"{shown}: {error}") from None
    return read_image(data, name=shown)


def _transfer(url: str) -> bytes:
    """Return what a server has at a URL; messages do not say where.

    Raises:
        InputError: the server refuses or cannot be understood, or sends too much.
        TimeoutError: it takes too long.
    """
    end = time.monotonic() + _SECONDS
    data = bytearray()
    try:
        with build_opener(_Redirects).open(_request(url), timeout=_SECONDS) as response:
            while some := response.read1(2**16):
                data += some
                # What is still to come counts too, where the server said how much that is.
                if len(data) + (response.length or 0) > MOST_BYTES:
                    raise InputError(f"larger than {MOST_BYTES / 1e6:.0f} MB")
                if time.monotonic() > end:
                    raise TimeoutError
    except InputError:
        raise
    except HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise InputError(f"leads on more than {_MOST_REDIRECTS} times, or to neither http nor https") from None
        raise InputError(f"the server answers {error.code} {responses.get(error.code, '')}".rstrip()) from None
    except (OSError, HTTPException, ValueError) as error:
        # In the system's words only: others may repeat what stands in the URL, or what the server sent.
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise reason from None
        raise InputError(f"cannot be fetched ({getattr(reason, 'strerror', None) or type(reason).__name__})") from None
    return bytes(data)


def _request(url: str) -> Request:
    """Return what asks for a URL; user and password, if it has them, go to this server only."""
    parts = urlsplit(url)
    _, _, host = parts.netloc.rpartition("@")
    host = host if host.isascii() else host.encode("idna").decode()
    path, query = (quote(part, safe="!$%&'()*+,/:;=?@[]~") for part in (parts.path, parts.query))
    request = Request(
        parts._replace(netloc=host, path=path, query=query, fragment="").geturl(),
        headers={"User-Agent": f"detector/{VERSION}"},  # some servers refuse Python's own
    )
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", "Basic " + b64encode(credentials.encode()).decode())
    return request


class _Redirects(HTTPRedirectHandler):
    """Follows a few redirects, to http and https only."""

    max_redirections = _MOST_REDIRECTS
    max_repeats = 1

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the next request."""
        fp.close()  # else what stands in it is read, without a limit
        if not is_on_web(newurl):
            raise HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
