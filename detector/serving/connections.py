"""Connections of clients: a limit on their number, and time limits for clients that send or receive nothing.

uvicorn has a time limit only for a connection between two requests. Without further limits, clients that open
connections and send half a request, or do not read the response, hold all connections that the system allows.
"""

import asyncio
import functools
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from detector.errors import ConfigError

MAX_CONNECTIONS = 256
"""Largest number of connections at the same time."""

_FEWEST_CONNECTIONS = 8
"""A server that can hold fewer connections does not start."""

_RESERVED_FILES = 28
"""File descriptors for everything but connections: files, pipes of processes, connections being opened or closed."""

_ACCEPTED_AT_ONCE = 1
"""Number of connections that asyncio accepts at once. Each passes four rounds of the event loop until the limit on
connections has closed another one."""

_QUEUE = 512
"""Number of connections that the system keeps until they are accepted."""

_HEADERS_EXPECTED = 0.5
"""Seconds after which the headers of a request are late."""

_STOP_SECONDS = 1.0
"""Seconds after the signal to stop; then the process ends although something is still going on."""

_TICK = 0.5
"""Seconds between two checks of a connection."""


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Limits for connections.

    Attributes:
        connections: largest number of connections. At the limit, a new connection replaces the one that has kept the
            server waiting for longest, for a request or else for the rest of an upload.
        header_seconds: time limit from the start of the connection, or the end of the previous request, to the end of
            the headers.
        response_seconds: time limit for receiving a response.
    """

    connections: int = MAX_CONNECTIONS
    header_seconds: float = 10.0
    response_seconds: float = 30.0


class Connection(H11Protocol):
    """A connection with time limits; at most as many exist at the same time as the limits allow.

    Args:
        limits: limits for connections.
        waiting: the connections from which the server waits for a part of a request, in the order in which they began
            to wait. All connections have this dictionary in common.
        uvicorn_arguments: as for uvicorn's class.
    """

    def __init__(self, limits: ConnectionLimits, waiting: "dict[Connection, None]", **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self._limits, self._waiting = limits, waiting
        self._waiting_since = self.loop.time()
        self._sending_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limits; if there are too many connections, close one of them."""
        super().connection_made(transport)
        self._wait()
        self._timer = self.loop.call_later(_TICK, self._check)
        if len(self.connections) > self._limits.connections:
            self._close_one()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time limits."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process a part of a request."""
        super().data_received(data)
        if not self.waits_for_headers and not self.waits_for_body:
            self._waiting.pop(self, None)

    def on_response_complete(self) -> None:
        """Start the time limit for the next request.

        If the client has sent the next request before it received this response, the connection is closed: no browser
        or proxy does this, and thousands of requests sent at once would delay those of other clients.
        """
        self._wait()
        if self.conn.trailing_data[0]:
            self.transport.close()
        super().on_response_complete()

    @property
    def waits_for_headers(self) -> bool:
        """True if the client has not sent a complete request header since the last response."""
        return self.conn.their_state is h11.IDLE

    @property
    def waits_for_body(self) -> bool:
        """True if the client has not sent the complete body of its request."""
        return self.conn.their_state is h11.SEND_BODY

    def _wait(self) -> None:
        """Start to wait for the headers of a request."""
        self._waiting_since = self.loop.time()
        self._waiting.pop(self, None)
        self._waiting[self] = None

    def _close_one(self) -> None:
        """Close the connection that keeps the server waiting for longest, or this one if all are being served.

        Connections whose headers are late are closed first, then those that upload something.
        """
        late = self.loop.time() - _HEADERS_EXPECTED
        victim = (
            next((one for one in self._waiting if one.waits_for_headers and one._waiting_since < late), None)
            or next((one for one in self._waiting if one.waits_for_body), None)
            or next(iter(self._waiting))
        )
        self.connections.discard(victim)  # the system tells later that it is closed
        self._waiting.pop(victim)
        victim.transport.abort()

    def _check(self) -> None:
        """Close the connection if the client is too slow; called regularly."""
        now = self.loop.time()
        if self.transport.get_write_buffer_size() > 0:
            self._sending_since = self._sending_since or now
            is_late = now - self._sending_since > self._limits.response_seconds
        else:
            self._sending_since = None
            is_late = self.waits_for_headers and now - self._waiting_since > self._limits.header_seconds
        if is_late:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(_TICK, self._check)


class Server(uvicorn.Server):
    """A uvicorn server that accepts a few connections at a time, so that it can keep the limit on their number.

    Args:
        config: configuration of the server.
        give_up: called in another thread if the server still runs `_STOP_SECONDS` after the signal to stop.
    """

    def __init__(self, config: uvicorn.Config, give_up: Callable[[], None]) -> None:
        super().__init__(config)
        self._timer = threading.Timer(_STOP_SECONDS, give_up)
        self._timer.daemon = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_QUEUE)  # asyncio uses one number for both, the queue and the connections accepted at once

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop after a signal."""
        if not self.should_exit:
            self._timer.start()
        super().handle_exit(sig, frame)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Run the server until a signal."""
        try:
            super().run(sockets)
        finally:
            self._timer.cancel()


def uvicorn_config(app: Any, limits: ConnectionLimits) -> uvicorn.Config:
    """Return the configuration of the server.

    Args:
        app: the ASGI app.
        limits: limits for connections.
    """
    protocol: Any = functools.partial(Connection, limits, {})  # uvicorn calls it like a class
    return uvicorn.Config(
        app,
        http=protocol,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=0.5,  # type: ignore[arg-type]  # asyncio takes fractions too
    )


def fit_to_open_files(wanted: int) -> int:
    """Return how many connections the limit on open files of this process allows, at most `wanted`.

    The limit is raised as far as the system allows, if that is necessary.

    Raises:
        ConfigError: there are too few file descriptors for a server.
    """
    if sys.platform == "win32":  # which has no such limit
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _count_open_files() + _RESERVED_FILES
    if soft < needed and soft != resource.RLIM_INFINITY:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = wanted if soft == resource.RLIM_INFINITY else wanted - (needed - soft)
    if allowed < _FEWEST_CONNECTIONS:
        raise ConfigError(
            f"at most {soft} files may be open at the same time, too few for a server: raise the limit (ulimit -n 1024)"
        )
    return min(wanted, allowed)


def _count_open_files() -> int:
    """Return the number of open files of this process; an estimate where the system does not tell."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        if Path(folder).is_dir():
            return len(list(Path(folder).iterdir()))
    return 32
