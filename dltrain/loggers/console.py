"""What people see while a run goes on: a live line on a terminal, plain lines elsewhere, the same in a log file."""

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from dltrain import redaction
from dltrain.loggers.formatting import CONTROL_CODES, format_duration, format_rate

if TYPE_CHECKING:
    from rich.console import Console as Rich
    from rich.table import Table

REDRAW_S = 0.1  # a live line is drawn at most this often
REPEAT_S = 60.0  # without a terminal a line is written at least this often
BAR = 16

NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?%)?|nan|[-+]?inf|-|")


class Console:
    """Messages for people on standard error; results may go to standard output.

    A terminal gets colours and a line that moves, unless ``TERM=dumb``; ``NO_COLOR`` takes the colours away. Anything
    else gets plain text without escape codes. A stream that breaks (a closed terminal) ends the output, not the run.

    Args:
        stream: Where messages go; None takes standard error.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._rich = _rich(self._stream)
        self._log: TextIO | None = None
        self._live = False
        self._reported: int | None = None
        self._due = self._first_due()

    def open_log(self, path: Path) -> None:
        """Also append every message, and a progress line per epoch, to a log file with the time of each."""
        self.close_log()
        self._log = open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115

    def close_log(self) -> None:
        """Close the log file and take the live line away: the run is over."""
        self._clear()
        if self._log is not None:
            self._log.close()
        self._log, self._reported = None, None

    def start(self, title: str, facts: Mapping[str, str]) -> None:
        """Say what will run: a title, if any, and facts in two aligned columns."""
        self._reported, self._due = None, self._first_due()
        margin = max(map(len, facts), default=0)
        if title:
            self._message(("bold", title))
        for name, fact in facts.items():
            self._message(("dim", f"  {name:<{margin}}  "), ("", fact))

    def progress(
        self,
        epoch: int,
        epochs: int,
        step: int,
        steps: int,
        loss: float | None,
        metric_name: str,
        metric_value: float | None,
        samples_per_s: float,
        seconds_left: float | None,
    ) -> None:
        """Show how far training is; cheap enough to call after every step.

        On a terminal the live line is redrawn ten times per second at most. Elsewhere, and in the log file, a line is
        written when an epoch is over: ``step`` has reached ``steps``, or ``epoch`` is another one than before.

        Args:
            epoch: Current epoch, from 1.
            epochs: Epochs in all.
            step: Steps done.
            steps: Steps in all.
            loss: Training loss; None leaves it out.
            metric_name: Name of the metric.
            metric_value: Its last value; None leaves it out.
            samples_per_s: Examples trained per second.
            seconds_left: Expected seconds to the end; None leaves it out.
        """
        now = time.monotonic()
        over = epoch if step >= steps else epoch - 1
        self._reported = epoch - 1 if self._reported is None else self._reported
        turned, due = over > self._reported, now >= self._due
        if not (turned or due):
            return
        parts = [f"epoch {epoch}/{epochs}", f"step {step}/{steps}"]
        parts += [] if loss is None else [f"loss {loss:.4g}"]
        parts += [] if metric_value is None else [f"{metric_name} {metric_value:.4g}"]
        parts.append(format_rate(samples_per_s))
        parts += [] if seconds_left is None else [f"left {format_duration(seconds_left)}"]
        if turned:
            self._reported = over
            self._record("  ".join(parts))
        if self._rich is None:
            self._due = now + REPEAT_S
            self._print("  ".join(parts))
        elif due:
            self._due = now + REDRAW_S
            self._draw(self._rich, parts, step / max(steps, 1))

    def info(self, message: str) -> None:
        """A message."""
        self._message(("", message))

    def warning(self, message: str) -> None:
        """Something that the user should know about and that does not end the run."""
        self._message(("bold yellow", "warning: "), ("", message))

    def error(self, lines: Sequence[str]) -> None:
        """What went wrong: a mistake, or a line of a traceback, per line."""
        text = "\n".join(lines).replace("\n", "\n" + " " * len("error: "))
        self._message(("bold red", "error: "), ("", text))

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        caption: str = "",
        results: bool = False,
    ) -> None:
        """A table; numbers are aligned to the right. Without a terminal it is never wrapped or cut.

        Args:
            title: Above the table; empty for none.
            columns: Their heads.
            rows: One text per column.
            caption: Below the table; empty for none.
            results: Write to standard output, where other programs may read it.
        """
        heads, *cells = [[redaction.redact(CONTROL_CODES.sub("", cell)) for cell in row] for row in (columns, *rows)]
        table = _Table(title, heads, cells, caption)
        self._record(table.plain())
        self._clear()
        rich = _rich(sys.stdout) if results else self._rich
        if rich is not None:
            with self._unbroken():
                rich.print(table.rich())
        elif results:
            print(_safe(table.plain(), sys.stdout), flush=True)
        else:
            self._print(table.plain())

    def _message(self, *parts: tuple[str, str]) -> None:
        """Show a message given as pairs of style and text, and keep it in the log file."""
        parts = tuple((redaction.redact(CONTROL_CODES.sub("", text)), style) for style, text in parts)
        plain = "".join(text for text, _ in parts)
        self._record(plain)
        self._clear()
        if self._rich is None:
            self._print(plain)
            return
        from rich.text import Text

        with self._unbroken():
            self._rich.print(Text.assemble(*parts), soft_wrap=True)

    def _print(self, text: str) -> None:
        with self._unbroken():
            self._stream.write(_safe(text, self._stream) + "\n")
            self._stream.flush()

    def _draw(self, rich: "Rich", parts: list[str], share: float) -> None:
        """Draw the live line over the one before, as much of it as fits."""
        from rich.text import Text

        line = Text.assemble((parts[0], "bold"), "  ", "  ".join(parts[1:]))
        room = rich.width - 1
        if line.cell_len + BAR + 2 <= room and rich.encoding.startswith("utf"):
            done = round(BAR * min(share, 1.0))
            bar = Text.assemble(("━" * done, "cyan"), ("─" * (BAR - done), "dim"), "  ")
            line = bar + line
        line.truncate(room, overflow="ellipsis")
        with rich.capture() as drawn:
            rich.print(line, end="", soft_wrap=True)
        with self._unbroken():
            self._stream.write(f"\r{drawn.get()}\x1b[K")
            self._stream.flush()
        self._live = True

    def _clear(self) -> None:
        """Take the live line away; the next progress draws it again."""
        if self._live:
            self._live, self._due = False, 0.0
            with self._unbroken():
                self._stream.write("\r\x1b[K")
                self._stream.flush()

    def _record(self, text: str) -> None:
        if self._log is None:
            return
        text, now = redaction.redact(text), time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            self._log.write("".join(f"{now} {line}\n" for line in text.split("\n")))
        except OSError as error:
            self._log = None
            self.warning(f"train.log ends here: {error}")

    @contextmanager
    def _unbroken(self) -> Iterator[None]:
        """Write on; when the stream breaks, into the void from then on."""
        try:
            yield
        except OSError:
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            self._rich, self._live = None, False

    def _first_due(self) -> float:
        return 0.0 if self._rich is not None else time.monotonic() + REPEAT_S


def _rich(stream: TextIO) -> "Rich | None":
    """Rich for a terminal that can do more than print, else None; importing it costs a tenth of a second."""
    if not stream.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return None
    from rich.console import Console as Rich

    return Rich(file=stream, highlight=False, markup=False, emoji=False)


class _Table(NamedTuple):
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str

    def right(self) -> list[bool]:
        """For each column whether it is aligned to the right: all numbers."""
        return [all(NUMBER.fullmatch(row[index]) for row in self.rows) for index in range(len(self.columns))]

    def plain(self) -> str:
        """Lines of text, as wide as they need to be."""
        widths = [max(len(row[index]) for row in (self.columns, *self.rows)) for index in range(len(self.columns))]
        forms = [f"{'>' if right else '<'}{width}" for right, width in zip(self.right(), widths, strict=True)]
        cells = [self.columns, ["-" * width for width in widths], *self.rows]
        lines = ["  ".join(map(format, row, forms)).rstrip() for row in cells]
        return "\n".join(part for part in (self.title, *lines, self.caption) if part)

    def rich(self) -> "Table":
        """The same for a terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, title_justify="left", caption_justify="left")
        table.title = Text(self.title, "bold") if self.title else None
        table.caption = Text(self.caption, "dim") if self.caption else None
        for head, right in zip(self.columns, self.right(), strict=True):
            table.add_column(Text(head), justify="right" if right else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


def _safe(text: str, stream: TextIO) -> str:
    """The text with what the stream's encoding cannot say spelled out."""
    encoding = stream.encoding or "utf-8"
    return redaction.redact(CONTROL_CODES.sub("", text)).encode(encoding, "backslashreplace").decode(encoding)
