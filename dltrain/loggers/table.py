"""A table as plain text, or as a rich table for a terminal."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?%)?|nan|[-+]?inf|-|")


class Table(NamedTuple):
    """A table; columns that contain only numbers are aligned to the right.

    Args:
        title: Above the table; may be empty.
        columns: Column headers.
        rows: One text per column.
        caption: Below the table; may be empty.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str

    def is_numeric(self, column: int) -> bool:
        """Return whether all cells of a column are numbers or empty."""
        return all(NUMBER.fullmatch(row[column]) for row in self.rows)

    def plain(self) -> str:
        """Return lines of text, as wide as the content."""
        widths = [max(map(len, cells)) for cells in zip(self.columns, *self.rows, strict=True)]
        specs = [f"{'>' if self.is_numeric(column) else '<'}{width}" for column, width in enumerate(widths)]
        lines = [self.columns, ["-" * width for width in widths], *self.rows]
        texts = ["  ".join(map(format, line, specs)).rstrip() for line in lines]
        return "\n".join(part for part in (self.title, *texts, self.caption) if part)

    def rich(self) -> "RichTable":
        """Return the same table for a terminal."""
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
