"""Protect a local server from web pages of other sites: check the `Host` and `Origin` of every request.

A browser lets any page on the internet send requests to 127.0.0.1, and names the page's site in `Origin`. A host name
that was set up to resolve to 127.0.0.1 (DNS rebinding) still appears in `Host`.
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
    """Return whether a host name or address is loopback, which no other machine can reach.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("[::1]"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def guard(app: ASGIApp, local_only: bool, headers: Mapping[str, str]) -> ASGIApp:
    """Return an app that checks each request before `app`, and adds `headers` to each response.

    Args:
        app: the app to protect.
        local_only: refuse requests whose `Host` is not a loopback name.
        headers: header name → value.
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
    """Return the security headers for every response: the page may run and load its own content and nothing else.

    Args:
        page: HTML with inline scripts and styles.
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
    """Return why a request is refused; None if it is allowed."""
    host, origin = headers.get("host", ""), headers.get("origin")
    name = re.sub(r":\d*$", "", host)
    if local_only and not is_loopback(name):
        return f"host '{name}' is not allowed: use 127.0.0.1 or localhost, or start the server with --host"
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return f"a page of {origin} may not use this server: only the server's own page and programs may"
    return None
