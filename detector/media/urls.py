"""URLs of images and streams: which are allowed, how messages show them, and downloading an image."""

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
from detector.errors import ConfigError, FileError
from detector.files import safe_name
from detector.images import IMAGE_SUFFIXES, read_image
from detector.options import MAX_PIXELS
from detector.version import VERSION

_TIMEOUT = 20.0
"""Seconds that the download of one image may take in total."""

MAX_BYTES = 50_000_000
"""Size of the largest image file that is read from a URL or from standard input."""

_MAX_REDIRECTS = 3
_CHUNK_BYTES = 2**16

_HTTP_URL = re.compile("https?://", re.IGNORECASE)


def is_http_url(text: str) -> bool:
    """Return whether a text is an http:// or https:// URL.

    >>> [is_http_url(text) for text in ("HTTP://a.b/c.jpg", "rtsp://a.b/c", "http.jpg")]
    [True, False, False]
    """
    return _HTTP_URL.match(text) is not None


def without_secrets(text: str) -> str:
    """Return a URL without user name, password, query and fragment; return a text that is no URL unchanged.

    The query is removed because it often contains access tokens.

    >>> [without_secrets(text) for text in ("https://me:secret@host/a.jpg?token=secret", "http:///a:b@c", "a?b.jpg")]
    ['https://host/a.jpg', 'http:///c', 'a?b.jpg']
    """
    return re.sub("//[^/]*@", "//", re.split("[?#]", text)[0]) if "://" in text else text


def check_allowed(text: str, allow_url: bool) -> None:
    """Raise ConfigError if a text is an http:// or https:// URL and URLs are not allowed."""
    if is_http_url(text) and not allow_url:
        raise ConfigError(f"{without_secrets(text)}: URLs are not fetched by default; add --allow-url to fetch it")


def file_name_from_url(url: str) -> Path:
    """Return a file name for the image at a URL, made from the last part of the URL's path.

    Raises:
        FileError: not a valid URL.

    >>> file_name_from_url("https://host/x/cat%20%2F%201.jpg?size=9").name
    'cat _ 1.jpg'
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None  # reading the port validates it
    except ValueError:
        host = None
    if not host:
        # An invalid URL has no defined password: everything before the last @ may belong to it.
        shown = url.rpartition("@")[2].partition("?")[0]
        raise FileError(f"{shown[:100]}: not a valid URL; expected something like http://host/image.jpg")
    path = PurePosixPath(parts.path)
    last = unquote(path.name) or host
    suffix = path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else ""
    return Path(safe_name(last.removesuffix(suffix)) + suffix)


def fetch(url: str, *, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Download and decode an image; error messages contain no password and no query.

    Args:
        url: an http:// or https:// URL; a user name and password in it are sent to its host only.
        max_pixels: pixels of the largest image that is decoded.

    Returns:
        [H, W, 3] RGB.

    Raises:
        FileError: the download fails, takes too long or is too large.
        ImageError: the file is not an image, damaged, or has too many pixels.
    """
    shown = without_secrets(url)
    download: Future[bytes] = Future()

    def run() -> None:
        try:
            download.set_result(_download(url))
        except BaseException as error:
            download.set_exception(error)

    # The timeout of a socket limits neither the DNS lookup nor a server that sends one byte now and then. A thread of
    # its own lets `result` limit the total time.
    Thread(target=run, daemon=True).start()
    try:
        data = download.result(_TIMEOUT)
    except TimeoutError:
        raise FileError(f"{shown}: the download takes longer than {_TIMEOUT:g} seconds") from None
    except FileError as error:
        raise FileError(f"{shown}: {error}") from None
    return read_image(data, name=shown, max_pixels=max_pixels)


def _download(url: str) -> bytes:
    """Return the response body of a URL; error messages do not contain the URL.

    Raises:
        FileError: the server cannot be reached, returns an error status or an invalid response, or sends too much.
        TimeoutError: the download takes too long.
    """
    deadline = time.monotonic() + _TIMEOUT
    data = bytearray()
    try:
        with build_opener(_RedirectHandler).open(_make_request(url), timeout=_TIMEOUT) as response:
            while chunk := response.read1(_CHUNK_BYTES):
                data += chunk
                # `length` is what Content-Length promises for the rest: refuse a large file before it is downloaded.
                if len(data) + (response.length or 0) > MAX_BYTES:
                    raise FileError(f"larger than {MAX_BYTES / 1e6:.0f} MB")
                if time.monotonic() > deadline:
                    raise TimeoutError
    except FileError:
        raise
    except HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise FileError(
                f"more than {_MAX_REDIRECTS} redirects, or a redirect to a URL that is not http(s)"
            ) from None
        raise FileError(f"the server returned status {error.code} {responses.get(error.code, '')}".rstrip()) from None
    except (OSError, HTTPException, ValueError) as error:
        # Only the operating system's message is shown: others may quote the URL or what the server sent.
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise reason from None
        raise FileError(f"cannot be fetched ({getattr(reason, 'strerror', None) or type(reason).__name__})") from None
    return bytes(data)


def _make_request(url: str) -> Request:
    """Return the HTTP request for a URL; its user name and password are not sent on to hosts it redirects to."""
    parts = urlsplit(url)
    _, _, host = parts.netloc.rpartition("@")
    host = host if host.isascii() else host.encode("idna").decode()
    path, query = (quote(part, safe="!$%&'()*+,/:;=?@[]~") for part in (parts.path, parts.query))
    request = Request(
        parts._replace(netloc=host, path=path, query=query, fragment="").geturl(),
        headers={"User-Agent": f"detector/{VERSION}"},  # some servers refuse the default one of Python
    )
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", "Basic " + b64encode(credentials.encode()).decode())
    return request


class _RedirectHandler(HTTPRedirectHandler):
    """Follow a few redirects, and only to http and https URLs."""

    max_redirections = _MAX_REDIRECTS
    max_repeats = 1

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the request for the URL that a response redirects to."""
        fp.close()  # otherwise urllib reads the body, without a size limit
        if not is_http_url(newurl):
            raise HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
