"""Protects a local server from web pages of other sites by checking the `Host` and `Origin` headers of each request.

A browser allows any web page to send requests to 127.0.0.1. The header `Origin` of such a request contains the site of
the page. An attacker may also define a host name that resolves to 127.0.0.1 (DNS rebinding). The header `Host` of such
a request contains this host name.
"""

import base64
import hashlib
import ipaddress
import re
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def is_loopback(host: str) -> bool:
    """Return True if `host` is "localhost" or a loopback address, which other machines cannot reach.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("[::1]"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def guard(app: ASGIApp, local_only: bool, headers: Mapping[str, str]) -> ASGIApp:
    """Return an ASGI app that refuses requests from other sites, passes all other requests to `app`, and adds headers.

    Args:
        app: the ASGI app to protect.
        local_only: also refuse requests whose `Host` header is not a loopback name or address.
        headers: header name → value; added to each response.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        reason = _reason_to_refuse(Headers(scope=scope), local_only) if scope["type"] == "http" else None
        await (JSONResponse({"error": reason}, 403) if reason else app)(scope, receive, send_with_headers)

    return guarded


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


def _reason_to_refuse(headers: Headers, local_only: bool) -> str | None:
    """Return the reason why a request is refused, or None if the request is allowed."""
    host, origin = headers.get("host", ""), headers.get("origin")
    name = re.sub(r":\d*$", "", host)
    if local_only and not is_loopback(name):
        return f"the host '{name}' is not allowed; use 127.0.0.1 or localhost, or start the server with --host"
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return f"web pages of {origin} must not use this server; only its own page and programs can use it"
    return None
