"""Standard input, output and error as a shell hands them over: closed, full, or in an alphabet of their own."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from dltrain.errors import OutputError

FULL = (errno.ENOSPC, errno.EBADF, errno.EIO, errno.EDQUOT, errno.EFBIG)


class Output:
    """Standard output, whose own mistakes are told from those of files.

    Args:
        stream: What it stands for.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text, as any stream does.

        Raises:
            OutputError: When it is full.
        """
        with self._explained():
            return self.stream.write(text)

    def flush(self) -> None:
        """Let go of what is held, as any stream does.

        Raises:
            OutputError: When it is full.
        """
        with self._explained():
            self.stream.flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            # Python would try to write it once more at its end, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            raise OutputError(f"standard output cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def ready() -> Iterator[None]:
    """Let a command write to standard output, and say it once if that cannot take what is written.

    Raises:
        OutputError: When it is closed or full.
    """
    closed = sys.stdout is None
    occupy()
    if closed:
        raise OutputError("standard output is closed; >/dev/null throws away what comes out")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what the terminal has no letter for
    with contextlib.redirect_stdout(cast(TextIO, Output(sys.stdout))):
        yield
        sys.stdout.flush()


def occupy() -> None:
    """Put nothing where a standard stream is closed, or the next file that is opened would take its place."""
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(free)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def says(text: str) -> bool:
    """Whether standard output has all letters of a text."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
