"""Console output: colors and a live line on a terminal, plain lines anywhere else."""

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, TextIO

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.table import Table as RichTable

BAR_WIDTH = 16
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?%)?|nan|[-+]?inf|-|")


class Table(NamedTuple):
    """A table; numeric columns are aligned to the right. Title and caption may be empty."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str

    def is_numeric(self, column: int) -> bool:
        """Return whether each cell of a column is a number, a dash or empty."""
        return all(NUMBER.fullmatch(row[column]) for row in self.rows)

    def plain(self) -> str:
        """Return the table as plain text, as wide as its content."""
        widths = [max(map(len, cells)) for cells in zip(self.columns, *self.rows, strict=True)]
        specs = [f"{'>' if self.is_numeric(column) else '<'}{width}" for column, width in enumerate(widths)]
        lines = [self.columns, ["-" * width for width in widths], *self.rows]
        texts = ["  ".join(map(format, line, specs)).rstrip() for line in lines]
        return "\n".join(part for part in (self.title, *texts, self.caption) if part)

    def rich(self) -> "RichTable":
        """Return the table as a rich table, for a terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=SIMPLE_HEAD, title_justify="left", caption_justify="left")
        table.title = Text(self.title, "bold") if self.title else None
        table.caption = Text(self.caption, "dim") if self.caption else None
        for column, header in enumerate(self.columns):
            justify = "right" if self.is_numeric(column) else "left"
            table.add_column(Text(header), justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


class ScreenHandler(logging.Handler):
    """Log handler that also draws a live line below the messages; silent after a failed write to its stream."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(logging.INFO)
        self.stream = stream
        self.rich = make_rich(stream)
        self.live = False  # whether a live line is shown

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
        """Draw the live line over the previous one, truncated to the width of the terminal.

        The first `bold` characters are bold. If there is room on a UTF-8 terminal, a bar shows `fraction`, in [0, 1].
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
    """Return a rich console for a terminal that can move the cursor, else None."""
    if not stream.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return None
    from rich.console import Console as RichConsole  # takes 0.1 s

    return RichConsole(file=stream, highlight=False, markup=False, emoji=False)


def encodable(text: str, stream: TextIO) -> str:
    """Return a text with backslash escapes for the characters that the stream's encoding lacks."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
