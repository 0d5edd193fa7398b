"""Standard output and standard error of the command line: text is escaped, and a stream that fails is reported.

A failure of standard output ends the command, because its results would be lost. A failure of standard error is
ignored, because there is no place to report it.
"""

import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from detector.escaping import escape

_LAST_STANDARD_DESCRIPTOR = 2


class OutputError(Exception):
    """Standard output cannot be written.

    Neither an OSError nor an InputError, so that no code takes it for the failure of another file or of one image.

    Attributes:
        reader_is_gone: whether the program that reads the output has ended or closed it, as `head` does.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written ({error.strerror})")
        self.reader_is_gone = isinstance(error, BrokenPipeError)


class EscapedStream:
    """A text stream that writes escapes for control characters, so that no name in a message can control a terminal.

    Args:
        stream: the stream to write to.
        required: True: raise OutputError if the stream cannot be written. False: ignore that.

    Attributes:
        unescaped: the stream to write to, for a progress bar.
    """

    def __init__(self, stream: TextIO, *, required: bool) -> None:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for a terminal or a file that is not UTF-8
        self.unescaped = stream
        self._wrapped = stream  # tqdm compares streams by this attribute: it removes a bar before a line is printed
        self._required = required

    def check(self) -> None:
        """Raise OutputError if it is known before the first output that the stream cannot be written."""
        if self.unescaped is sys.__stdout__:
            with self._handled():
                os.write(self.unescaped.fileno(), b"")  # a full device refuses even this

    def write(self, text: str) -> int:
        """Write text; return its number of characters."""
        with self._handled():
            self.unescaped.write(escape(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each text."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write the text that is still in memory."""
        with self._handled():
            self.unescaped.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)

    @contextmanager
    def _handled(self) -> Iterator[None]:
        """Context manager that raises OutputError for an OSError, or ignores it if the stream is not required."""
        try:
            yield
        except OSError as error:
            self._discard()
            if self._required:
                raise OutputError(error) from None

    def _discard(self) -> None:
        """Let the text that is still in memory go to the null device, so that Python can flush the stream at exit."""
        if self.unescaped in (sys.__stdout__, sys.__stderr__):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.unescaped.fileno())
            os.close(null)


@contextmanager
def escaped_streams() -> Iterator[None]:
    """Context manager that escapes what is printed, and writes all of it before the end of the `with` block.

    Raises:
        OutputError: standard output is closed or cannot be written.
    """
    before = sys.stdout, sys.stderr
    is_closed = sys.stdout is None
    _occupy_closed_descriptors()
    with Path(os.devnull).open("w", encoding="utf-8") as null:
        # Without a stream for errors, `print(file=sys.stderr)` would print to standard output.
        out = EscapedStream(sys.stdout or null, required=True)
        errors = EscapedStream(sys.stderr or null, required=False)
        sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, errors)
        try:
            if is_closed:
                raise OutputError(OSError(errno.EBADF, "it is closed; redirect it to a file or to the null device"))
            out.check()
            yield
        finally:
            try:
                errors.flush()
                out.flush()
            finally:
                sys.stdout, sys.stderr = before


def _occupy_closed_descriptors() -> None:
    """Open the null device for each closed standard stream: else the next opened file would become standard output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD_DESCRIPTOR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
