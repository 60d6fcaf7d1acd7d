"""The stream that people watch: colors and a live line on a terminal, plain lines anywhere else."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from dltrain.loggers.table import Table

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

BAR_WIDTH = 16


class ScreenHandler(logging.Handler):
    """Log handler that also draws a live line below the messages.

    If the stream breaks (a closed terminal), all further output is discarded.

    Args:
        stream: Usually standard error.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(logging.INFO)
        self.stream = stream
        self.rich = make_rich(stream)
        self.live = False  # a live line is shown

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message; ``record.style`` applies to its first ``record.styled`` characters."""
        text = record.getMessage()
        self.clear()
        if self.rich is None:
            self.print(text)
            return
        from rich.text import Text

        styled = Text(text)
        styled.stylize(getattr(record, "style", ""), 0, getattr(record, "styled", 0))
        with self._discard_if_broken():
            self.rich.print(styled, soft_wrap=True)

    def print(self, text: str) -> None:
        """Print plain text."""
        self._write(f"{encodable(text, self.stream)}\n")

    def print_table(self, table: Table) -> None:
        """Print a table."""
        self.clear()
        if self.rich is None:
            self.print(table.plain())
            return
        with self._discard_if_broken():
            self.rich.print(table.rich())

    def draw(self, line: str, bold: int, fraction: float) -> None:
        """Draw the live line over the previous one, cut to the width of the terminal.

        Args:
            line: Its text.
            bold: How many of the first characters are bold.
            fraction: Progress in [0, 1], shown as a bar if there is room.
        """
        from rich.text import Text

        assert self.rich is not None
        text = Text(line)
        text.stylize("bold", 0, bold)
        width = self.rich.width - 1
        if text.cell_len + BAR_WIDTH + 2 <= width and self.rich.encoding.startswith("utf"):
            done = round(BAR_WIDTH * min(fraction, 1.0))
            text = Text.assemble(("━" * done, "cyan"), ("─" * (BAR_WIDTH - done), "dim"), "  ", text)
        text.truncate(width, overflow="ellipsis")
        with self.rich.capture() as drawn:
            self.rich.print(text, end="", soft_wrap=True)
        self.live = True
        self._write(f"\r{drawn.get()}\x1b[K")

    def clear(self) -> None:
        """Erase the live line."""
        if self.live:
            self.live = False
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        with self._discard_if_broken():
            self.stream.write(text)
            self.stream.flush()

    @contextmanager
    def _discard_if_broken(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            self.rich, self.live = None, False


def print_results(table: Table) -> None:
    """Print a table on standard output, where other programs may read it."""
    rich = make_rich(sys.stdout)
    if rich is None:
        print(encodable(table.plain(), sys.stdout), flush=True)
        return
    with suppress(OSError):
        rich.print(table.rich())


def make_rich(stream: TextIO) -> "RichConsole | None":
    """Return a rich console for a terminal that can move the cursor, else None; importing rich takes 0.1 s."""
    if not stream.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return None
    from rich.console import Console as RichConsole

    return RichConsole(file=stream, highlight=False, markup=False, emoji=False)


def encodable(text: str, stream: TextIO) -> str:
    """Replace characters that the stream's encoding lacks by backslash escapes."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
