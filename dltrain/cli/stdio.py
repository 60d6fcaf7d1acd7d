"""Handle standard streams that are closed or full, or whose encoding lacks some characters."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from dltrain.errors import OutputError


class StandardOutput:
    """Standard output that raises `OutputError` instead of `OSError`, except for a broken pipe.

    Callers can thus distinguish errors of standard output from errors of files.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text` and return its number of characters."""
        return self._explain(self._stream.write, text)

    def flush(self) -> None:
        """Flush the stream."""
        self._explain(self._stream.flush)

    def _explain(self, call: Callable[..., Any], *arguments: str) -> Any:
        try:
            return call(*arguments)
        except OSError as error:
            # Discard the buffered output: flushing it at exit would report the error a second time.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            raise OutputError(f"standard output cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Make standard streams safe to use for the duration of a command; reject a closed standard output."""
    closed = sys.stdout is None
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:  # else a file could get the descriptor of a closed stream
        pass
    os.close(free)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if closed:
        raise OutputError("standard output is closed; >/dev/null discards the output")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    with contextlib.redirect_stdout(cast(TextIO, StandardOutput(sys.stdout))):
        yield
        sys.stdout.flush()
