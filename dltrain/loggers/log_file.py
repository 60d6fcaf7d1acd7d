"""The log file of a run: every message with its time."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path


class LogFile(logging.FileHandler):
    """Append records to a file; if it cannot be written, training continues without it.

    Args:
        path: The log file.
        on_error: Called with the error when a write fails.
    """

    def __init__(self, path: Path, on_error: Callable[[OSError], None]) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.on_error = on_error
        self.setFormatter(LineFormatter(datefmt="%Y-%m-%d %H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:
        """Report an OSError; raise any other error."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self.on_error(error)
        elif error is not None:
            raise error


class LineFormatter(logging.Formatter):
    """Put the time before every line of a message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a message, each with its time."""
        time = self.formatTime(record, self.datefmt)
        return "\n".join(f"{time} {line}" for line in record.getMessage().split("\n"))
