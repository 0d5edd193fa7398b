"""URLs of images and streams: checks whether a URL is allowed, hides passwords in messages, and downloads images."""

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
"""Time limit in seconds for the complete download of one image."""

MAX_BYTES = 50_000_000
"""Largest size in bytes of an image file that is read from a URL or from standard input."""

_MAX_REDIRECTS = 3
_CHUNK_BYTES = 2**16

_HTTP_URL = re.compile("https?://", re.IGNORECASE)


def is_http_url(text: str) -> bool:
    """Return True if a text starts with http:// or https://, in upper or lower case.

    >>> [is_http_url(text) for text in ("HTTP://a.b/c.jpg", "rtsp://a.b/c", "http.jpg")]
    [True, False, False]
    """
    return _HTTP_URL.match(text) is not None


def without_secrets(text: str) -> str:
    """Return a URL without user name, password, query and fragment; return text without `://` unchanged.

    The query is removed because it may contain access tokens.

    >>> [without_secrets(text) for text in ("https://me:secret@host/a.jpg?token=secret", "http:///a:b@c", "a?b.jpg")]
    ['https://host/a.jpg', 'http:///c', 'a?b.jpg']
    """
    return re.sub("//[^/]*@", "//", re.split("[?#]", text)[0]) if "://" in text else text


def check_allowed(text: str, allow_url: bool) -> None:
    """Raise ConfigError if `text` is an http:// or https:// URL and `allow_url` is False."""
    if is_http_url(text) and not allow_url:
        raise ConfigError(f"{without_secrets(text)}: URLs are not opened by default; add --allow-url to open them")


def file_name_from_url(url: str) -> Path:
    """Return a valid file name for the image at a URL: the last part of the path of the URL, or the host name.

    Raises:
        FileError: `url` is not a valid URL.

    >>> file_name_from_url("https://host/x/cat%20%2F%201.jpg?size=9").name
    'cat _ 1.jpg'
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None  # `parts.port` raises an error for an invalid port
    except ValueError:
        host = None
    if not host:
        # In an invalid URL, everything before the last @ may be part of a password.
        shown = url.rpartition("@")[2].partition("?")[0]
        raise FileError(f"{shown[:100]}: not a valid URL; expected for example http://host/image.jpg")
    path = PurePosixPath(parts.path)
    last = unquote(path.name) or host
    suffix = path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else ""
    return Path(safe_name(last.removesuffix(suffix)) + suffix)


def fetch(url: str, *, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Download an image and return the decoded image [H, W, 3] RGB.

    Error messages do not contain the password and the query of the URL.

    Args:
        url: an http:// or https:// URL. A user name and password in the URL are sent only to the host of the URL, not
            to a host that this host redirects to.
        max_pixels: largest number of pixels of an image that is decoded.

    Raises:
        FileError: the download fails, takes longer than `_TIMEOUT` seconds, or is larger than `MAX_BYTES` bytes.
        ImageError: the downloaded file is not an image or is damaged, or the image has too many pixels.
    """
    shown = without_secrets(url)
    download: Future[bytes] = Future()

    def run() -> None:
        try:
            download.set_result(_download(url))
        except BaseException as error:
            download.set_exception(error)

    # The timeout of a socket does not limit the DNS lookup, or a download from a server that sends single bytes. The
    # download runs in a new thread, so that `result` can limit the total time.
    Thread(target=run, daemon=True).start()
    try:
        data = download.result(_TIMEOUT)
    except TimeoutError:
        raise FileError(f"{shown}: the download took longer than the limit of {_TIMEOUT:g} seconds") from None
    except FileError as error:
        raise FileError(f"{shown}: {error}") from None
    return read_image(data, name=shown, max_pixels=max_pixels)


def _download(url: str) -> bytes:
    """Send a request to a URL and return the response body; error messages do not contain the URL.

    Raises:
        FileError: the server cannot be reached, or the response is an error, invalid, or larger than `MAX_BYTES` bytes.
        TimeoutError: the download takes longer than `_TIMEOUT` seconds.
    """
    deadline = time.monotonic() + _TIMEOUT
    data = bytearray()
    try:
        with build_opener(_RedirectHandler).open(_make_request(url), timeout=_TIMEOUT) as response:
            while chunk := response.read1(_CHUNK_BYTES):
                data += chunk
                # `length` is the number of bytes that follow according to Content-Length. With it, a file that is too
                # large is refused before it is downloaded.
                if len(data) + (response.length or 0) > MAX_BYTES:
                    raise FileError(f"the file is larger than the limit of {MAX_BYTES / 1e6:.0f} MB for downloads")
                if time.monotonic() > deadline:
                    raise TimeoutError
    except FileError:
        raise
    except HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise FileError(
                f"the server redirects more than {_MAX_REDIRECTS} times, or to a URL that is not http:// or https://"
            ) from None
        raise FileError(f"the server returned status {error.code} {responses.get(error.code, '')}".rstrip()) from None
    except (OSError, HTTPException, ValueError) as error:
        # Only a message of the operating system is shown. Other messages may contain the URL or text from the server.
        # The reason of a URLError is an exception or a text, that of a UnicodeEncodeError is a text.
        reason = cause if isinstance(cause := getattr(error, "reason", None), Exception) else error
        if isinstance(reason, TimeoutError):
            raise reason from None
        raise FileError(f"the download failed ({getattr(reason, 'strerror', None) or type(reason).__name__})") from None
    return bytes(data)


def _make_request(url: str) -> Request:
    """Return the HTTP request for a URL; user name and password are sent only to the host of this URL."""
    parts = urlsplit(url)
    _, _, host = parts.netloc.rpartition("@")
    host = host if host.isascii() else host.encode("idna").decode()
    path, query = (quote(part, safe="!$%&'()*+,/:;=?@[]~") for part in (parts.path, parts.query))
    request = Request(
        parts._replace(netloc=host, path=path, query=query, fragment="").geturl(),
        headers={"User-Agent": f"detector/{VERSION}"},  # some servers refuse Python's default User-Agent
    )
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", "Basic " + b64encode(credentials.encode()).decode())
    return request


class _RedirectHandler(HTTPRedirectHandler):
    """Follows at most `_MAX_REDIRECTS` redirects, and only redirects to http:// and https:// URLs."""

    max_redirections = _MAX_REDIRECTS
    max_repeats = 1

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the request for `newurl`, the URL that a response redirects to; else raise HTTPError."""
        fp.close()  # otherwise urllib reads the response body, without a size limit
        if not is_http_url(newurl):
            raise HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
