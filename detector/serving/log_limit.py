"""Limits how often the same message is logged, so that clients cannot fill the log."""

import logging
import threading
import time

_COUNT = 5
"""Largest number of records with the same text in each period."""

_SECONDS = 10.0
"""Length of a period."""

_LOGGERS = ("uvicorn.error", "asyncio")
"""Loggers of libraries that log something for each bad request or connection."""

_FORM_PARSER = "python_multipart"
"""Logger of the parser of forms. Its texts differ for each damaged form, so that a limit on equal texts does not help,
and the client receives the error."""


class LogLimit(logging.Filter):
    """A filter that passes a few records with the same text, and counts the others.

    The first record of a later period says how many were not logged. The text is compared without its arguments.

    Args:
        count: largest number of records with the same text in each period.
        seconds: length of a period.
    """

    def __init__(self, count: int = _COUNT, seconds: float = _SECONDS) -> None:
        super().__init__()
        self._count, self._seconds = count, seconds
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if a record is to be logged; its text may get an addition."""
        key, now = (record.name, str(record.msg)[:200]), time.monotonic()
        with self._lock:
            started, seen = self._seen.get(key, (now, 0))
            suppressed = seen - self._count if now - started >= self._seconds else 0
            if now - started >= self._seconds:
                started, seen = now, 0
            if len(self._seen) > 1000:  # texts that contain arguments
                self._seen.clear()
            self._seen[key] = (started, seen + 1)
        if suppressed > 0:
            record.msg = f"{str(record.msg).rstrip()} ({suppressed} more like this were not logged)"
        return seen < self._count


def limit_logs() -> None:
    """Limit the messages of the libraries that log bad requests and connections; drop those about damaged forms."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, LogLimit) for known in logger.filters):
            logger.addFilter(LogLimit())
    logging.getLogger(_FORM_PARSER).setLevel(logging.CRITICAL)
