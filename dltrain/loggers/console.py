"""Messages and progress on standard error, result tables on standard output, and the log file of a run."""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from dltrain import redaction
from dltrain.loggers.formatting import CONTROL_CODES
from dltrain.loggers.screen import ScreenHandler, Table, print_results

REDRAW_S = 0.1  # minimum interval between updates of the live line
REPEAT_S = 60.0  # maximum interval between progress lines without a terminal


class Console:
    """Messages and progress on standard error; result tables on standard output.

    A terminal gets colors and a live progress line, unless ``TERM`` is ``dumb`` or ``unknown``; ``NO_COLOR`` removes
    the colors. Anything else gets plain text without escape codes. In all output, secrets are masked and control
    characters are removed.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.screen = ScreenHandler(sys.stderr if stream is None else stream)
        # Not from logging.getLogger, so that the consoles of one process stay independent. DEBUG is for the log file.
        self.logger = logging.Logger("dltrain", logging.DEBUG)
        self.logger.addFilter(clean_record)
        self.logger.addHandler(self.screen)
        self._log_file: LogFile | None = None
        self._reported: int | None = None  # last epoch with a progress line in the log
        self._due = 0.0  # time of the next progress update
        self._reset_progress()

    def open_log(self, path: Path) -> None:
        """Append all further messages and tables, and a progress line per epoch, to a log file."""
        self.close_log()
        self._log_file = LogFile(path, self._end_log)
        self.logger.addHandler(self._log_file)

    def close_log(self) -> None:
        """Close the log file and erase the live line, at the end of a run."""
        self.screen.clear()
        self._reset_progress()
        self._remove_log()

    def start(self, title: str, facts: Mapping[str, str]) -> None:
        """Show a title, unless it is empty, and facts in two aligned columns, before the progress of a run."""
        self._reset_progress()
        width = max(map(len, facts), default=0)
        if title:
            self._log(logging.INFO, title, "", "bold")
        for name, fact in facts.items():
            self._log(logging.INFO, f"  {name:<{width}}  ", fact, "dim")

    def progress(self, done: float, epochs: int, step: int, steps: int, *figures: str) -> None:
        """Show the progress of a run and `figures` such as ``loss 0.5``; cheap enough to call after every step.

        On a terminal the live line is redrawn at most ten times per second. Elsewhere, a line is written after
        each epoch and at least once a minute; in the log file, only after each epoch. An epoch ends when `done`, the
        number of epochs so far, reaches a whole number, or `step` reaches `steps`.
        """
        epoch = math.ceil(done)
        finished = epoch if step >= steps else int(done)
        self._reported = epoch - 1 if self._reported is None else self._reported
        epoch_ended, due = finished > self._reported, self._is_due()
        if not (epoch_ended or due):
            return
        title = f"epoch {finished if epoch_ended else epoch}/{epochs}"
        line = clean("  ".join([title, f"step {step}/{steps}", *figures]))
        if epoch_ended:
            self._reported = finished
            self.logger.debug(line)
        if due or self.screen.rich is None:
            self._show_live(line, len(title), step / max(steps, 1))

    def evaluation(self, batch: int, batches: int, *figures: str) -> None:
        """Show the progress of an evaluation, as often as `progress` does within an epoch, but not in the log file."""
        if self._is_due():
            title, share = "evaluation", batch / max(batches, 1)
            line = clean("  ".join([title, f"batch {batch}/{batches}", f"{share:.0%}", *figures]))
            self._show_live(line, len(title), share)

    def _is_due(self) -> bool:
        return time.monotonic() >= self._due or (self.screen.rich is not None and not self.screen.live)

    def _show_live(self, line: str, bold: int, fraction: float) -> None:
        if self.screen.rich is None:
            self._due = time.monotonic() + REPEAT_S
            self.screen.print(line)
        else:
            self._due = time.monotonic() + REDRAW_S
            self.screen.draw(line, bold, fraction)

    def info(self, message: str) -> None:
        """Show a message."""
        self._log(logging.INFO, "", message)

    def warning(self, message: str) -> None:
        """Show a warning, which does not end the run."""
        self._log(logging.WARNING, "warning: ", message, "bold yellow")

    def error(self, lines: Sequence[str]) -> None:
        """Show an error: one problem, or one line of a traceback, per line."""
        text = "\n".join(lines).replace("\n", "\n" + " " * len("error: "))
        self._log(logging.ERROR, "error: ", text, "bold red")

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        caption: str = "",
        results: bool = False,
    ) -> None:
        """Show a table, with numbers aligned to the right; without a terminal it is never wrapped or truncated.

        With `results` it goes to standard output, where other programs may read it.
        """
        header, *body = [[clean(cell) for cell in row] for row in (columns, *rows)]
        table = Table(clean(title), header, body, clean(caption))
        self.logger.debug(table.plain())
        if results:
            self.screen.clear()
            print_results(table)
        else:
            self.screen.print_table(table)

    def _log(self, level: int, prefix: str, text: str, style: str = "") -> None:
        self.logger.log(level, prefix + text, extra={"style": style, "styled": len(prefix)})

    def _end_log(self, error: OSError) -> None:
        with contextlib.suppress(OSError):  # closing flushes the buffer, which may fail again
            self._remove_log()
        self.warning(f"train.log ends here: {error}")

    def _remove_log(self) -> None:
        log_file, self._log_file = self._log_file, None
        if log_file is not None:
            self.logger.removeHandler(log_file)
            log_file.close()

    def _reset_progress(self) -> None:
        self._reported, self._due = None, time.monotonic() + REPEAT_S


class LogFile(logging.FileHandler):
    """Log handler that appends records to a file; on a failed write, it calls `on_error` and the run continues."""

    def __init__(self, path: Path, on_error: Callable[[OSError], None]) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.on_error = on_error

    def format(self, record: logging.LogRecord) -> str:
        """Return a message with its time at the start of each line."""
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return "\n".join(f"{moment} {line}" for line in record.getMessage().split("\n"))

    def handleError(self, record: logging.LogRecord) -> None:
        """Report an OSError; raise any other error."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self.on_error(error)
        elif error is not None:
            raise error


def clean(text: str) -> str:
    """Mask secrets and remove control characters, except tabs and newlines."""
    return redaction.redact(CONTROL_CODES.sub("", text))


def clean_record(record: logging.LogRecord) -> bool:
    """Clean the message of a log record, and return True: a logging filter that keeps every record."""
    record.msg, record.args = clean(record.getMessage()), None
    return True
