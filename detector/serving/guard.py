"""Checks who may use the server: the `Host` and `Origin` headers of each request, and its API key.

A browser allows any web page to send requests to 127.0.0.1. The header `Origin` of such a request contains the site of
the page. An attacker may also define a host name that resolves to 127.0.0.1 (DNS rebinding). The header `Host` of such
a request contains this host name.

A refused request is answered after its body was read, up to a limit, because a client that still sends may not receive
the response. A connection whose request was not read to its end is closed, so that nothing more is received.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.serving.metrics import Metrics
from detector.serving.uploads import Uploads

_CHALLENGE = 'Basic realm="detector", charset="UTF-8", Bearer realm="detector"'
"""Both ways to send the key: programs send it as a bearer token, browsers ask for it as a password."""

_WITHOUT_KEY = "/health"
"""The only path that needs no API key: load balancers ask it."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may use the server.

    Attributes:
        local_only: refuse requests whose `Host` header is neither a loopback name or address, nor in `host_names`.
        host_names: other names under which the server may be reached, such as the name of a reverse proxy.
        api_key: the key that each request must contain, except those to `/health`; None: no key is needed.
    """

    local_only: bool = True
    host_names: Collection[str] = ()
    api_key: str | None = None


def is_loopback(host: str) -> bool:
    """Return True if `host` is "localhost" or a loopback address, which other machines cannot reach.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("[::1]"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """An ASGI app that refuses some requests, passes all others to another app, and adds headers to the responses.

    Args:
        app: the ASGI app to protect.
        access: who may use the server.
        headers: header name → value; added to each response.
        uploads: reads the bodies of refused requests.
        metrics: counts the responses.
        paths: path of each endpoint → whether the endpoint reads the body of the request.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        *,
        headers: Mapping[str, str],
        uploads: Uploads,
        metrics: Metrics,
        paths: Mapping[str, bool],
    ) -> None:
        self._app, self._access, self._headers = app, access, headers
        self._uploads, self._metrics, self._paths = uploads, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request. Other messages, such as those at start and end, are passed on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        is_started = False
        is_complete = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"

        async def receive_and_watch() -> Message:
            nonlocal is_complete
            message = await receive()
            is_complete |= message["type"] == "http.request" and not message.get("more_body", False)
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                response_headers = MutableHeaders(scope=message)
                response_headers.update(self._headers)
                if not is_complete:
                    response_headers["Connection"] = "close"
                self._metrics.count_response(path if path in self._paths else "other", message["status"])
            await send(message)

        refusal = _refusal(headers, path, self._access)
        if not is_complete and (refusal or not self._paths.get(path)):
            try:
                await self._uploads.skip(Request(scope, receive_and_watch))
            except ClientDisconnect:
                return
        try:
            await (refusal or self._app)(scope, receive_and_watch, send_with_headers)
        except asyncio.CancelledError:  # the server stops
            if not is_started:
                await JSONResponse({"error": "the server stops"}, 503)(scope, receive, send_with_headers)


def page_headers(page: str) -> dict[str, str]:
    """Return the security headers for all responses, as header name → value.

    With these headers, a browser runs only the scripts and styles in `page`, and the page connects only to this server.

    Args:
        page: HTML of the web page, with inline scripts and styles.
    """

    def hashes(tag: str) -> str:
        parts = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in parts
        )

    own = f"script-src {hashes('script')}; style-src {hashes('style')}; img-src data:; connect-src 'self'"
    foreign = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return {
        "Content-Security-Policy": f"{foreign}; {own}",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


def _refusal(headers: Headers, path: str, access: Access) -> JSONResponse | None:
    """Return the response to a request that is refused, or None if the request is allowed."""
    host, origin = headers.get("host", ""), headers.get("origin")
    name = re.sub(r":\d*$", "", host)
    if access.local_only and not is_loopback(name) and name.lower() not in access.host_names:
        reason = f"the host '{name}' is not allowed; use 127.0.0.1 or localhost, or start the server with "
        return JSONResponse({"error": f"{reason}--host, or with --host-name and this name"}, 403)
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        reason = f"web pages of {origin} must not use this server; only its own page and programs can use it"
        return JSONResponse({"error": reason}, 403)
    if access.api_key is not None and path != _WITHOUT_KEY and not _has_key(headers, access.api_key):
        reason = "the API key is missing or wrong; send it in the header `Authorization: Bearer KEY`"
        return JSONResponse({"error": reason}, 401, {"WWW-Authenticate": _CHALLENGE})
    return None


def _has_key(headers: Headers, api_key: str) -> bool:
    """Return True if a request contains the API key, as a bearer token or as the password of any user.

    The comparison takes the same time for every wrong key.
    """
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            sent = base64.b64decode(sent, validate=True).decode().partition(":")[2]
        except ValueError:  # not base64, or not UTF-8
            return False
    elif scheme.lower() != "bearer":
        return False
    digests = [hashlib.sha256(key.strip().encode()).digest() for key in (sent, api_key)]
    return hmac.compare_digest(*digests)
