"""Reads the bodies of requests, with limits on the size and time of each, and on the memory of all together."""

import asyncio
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request

STALL_SECONDS = 5.0
"""Time limit for the next bytes of an upload."""

_MAX_LARGEST = 16
"""Number of uploads of the largest size that are in memory at the same time."""


@dataclass(eq=False)
class _Upload:
    """An upload that is being read.

    Attributes:
        timeout: ends the upload when its time is over.
        size: bytes in memory.
        is_displaced: True if the upload was ended because the memory is needed for others.
    """

    timeout: asyncio.Timeout
    size: int = 0
    is_displaced: bool = False


class Uploads:
    """Reads uploads. An upload takes none of the places for images until it is complete.

    If the uploads need more memory than that of 16 of the largest, the oldest is refused.

    Args:
        max_bytes: largest size of a body in bytes.
        seconds: time limit for an upload.
        stall_seconds: time limit for the next bytes of an upload.
    """

    def __init__(self, max_bytes: int, seconds: float, stall_seconds: float = STALL_SECONDS) -> None:
        self._max_bytes, self._seconds, self._stall_seconds = max_bytes, seconds, stall_seconds
        self._uploads: dict[_Upload, None] = {}  # in the order in which they started
        self._bytes = 0

    async def read(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            HTTPException: 408: the upload takes too long; 413: the body is too large; 503: the memory is full.
            ClientDisconnect: the client closed the connection.
        """
        upload: _Upload | None = None
        try:
            async with asyncio.timeout(None) as timeout:
                upload = _Upload(timeout)
                self._uploads[upload] = None
                body = await self._read(request, upload)
        except TimeoutError:
            assert upload is not None
            if upload.is_displaced:
                raise HTTPException(503, "too many uploads at the same time; try again", {"Retry-After": "1"}) from None
            reason = f"the upload takes longer than {self._seconds:g} seconds, or sends nothing for "
            raise HTTPException(408, f"{reason}{self._stall_seconds:g} seconds") from None
        finally:
            if upload is not None:
                self._uploads.pop(upload)
                self._bytes -= upload.size
        if body is None:
            raise HTTPException(413, f"the file is larger than {self._max_bytes / 1e6:g} MB; shrink the image")
        return body

    async def skip(self, request: Request) -> None:
        """Read the body of a request and discard it; stop at the limits of `read`.

        A client that is refused before its upload is complete may not receive the response, only a broken connection.
        """
        try:
            async with asyncio.timeout(self._stall_seconds):
                size = 0
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > 2 * self._max_bytes:
                        return
        except TimeoutError:
            return

    async def _read(self, request: Request, upload: _Upload) -> bytes | None:
        """Return the body of a request, or None if it is too large.

        A body that is too large is read up to twice the limit and discarded, so that the client receives the response.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        upload.timeout.reschedule(min(deadline, loop.time() + self._stall_seconds))
        body, size = bytearray(), 0
        async for chunk in request.stream():
            if not upload.is_displaced:
                upload.timeout.reschedule(min(deadline, loop.time() + self._stall_seconds))
            size += len(chunk)
            if size <= self._max_bytes:
                body += chunk
                self._add(upload, len(chunk))
            elif size > 2 * self._max_bytes:
                break
        return bytes(body) if size <= self._max_bytes else None

    def _add(self, upload: _Upload, size: int) -> None:
        """Count bytes in memory; end the oldest uploads if there are too many."""
        upload.size += size
        self._bytes += size
        excess = self._bytes - _MAX_LARGEST * self._max_bytes
        for oldest in self._uploads:
            if excess <= 0:
                return
            if not oldest.is_displaced:
                oldest.is_displaced = True
                oldest.timeout.reschedule(asyncio.get_running_loop().time())
            excess -= oldest.size
