"""What a user brings to be predicted: files, folders, standard input, or a text in the command itself."""

import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from dltrain.data.checks import nearest_file
from dltrain.errors import ConfigError, format_error

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Given:
    """All that a user brings.

    Args:
        names: Files, folders, or ``-`` for standard input.
        text: A text, for data that are text.
        batch: Examples that are predicted at a time.
    """

    names: tuple[str, ...] = ()
    text: str | None = None
    batch: int = 64

    def files(self, wanted: str, endings: Iterable[str] = ()) -> "Iterator[GivenFile]":
        """The files one after another; those of a folder, and below it, in alphabetical order.

        Args:
            wanted: What the data read, for messages.
            endings: Which files of a folder count; none: folders are refused.

        Raises:
            ConfigError: When there are none, or not such as are wanted.
        """
        if self.text is not None:
            raise ConfigError(
                format_error("--text", f"{wanted} as INPUT, since this run did not learn text", self.text)
            )
        if not self.names:
            raise ConfigError(format_error("INPUT", f"{wanted}, or {STANDARD_INPUT} for standard input", None))
        for number, name in enumerate(self.names, 1):
            if not os.path.isdir(name):
                yield GivenFile(number, name)
                continue
            found = sorted(path for path in Path(name).rglob("*") if path.suffix.casefold() in endings)
            if strange := next(filter(_is_strange, found), None):
                raise ConfigError(format_error(f"INPUT {number}", "files and folders in it", strange, "It is neither."))
            if not found:
                there = f"a folder without {' '.join(endings)}" if endings else "a folder"
                raise ConfigError(format_error(f"INPUT {number}", wanted, name, f"It is {there}."))
            yield from (GivenFile(number, str(path)) for path in found)


@dataclass(frozen=True)
class GivenFile:
    """One file, or standard input.

    Args:
        number: Of the INPUT that it belongs to, from 1.
        name: Its path, or ``-``.
    """

    number: int
    name: str

    @property
    def path(self) -> Path:
        """Its path; for messages only where it is standard input."""
        return Path("standard input" if self.name == STANDARD_INPUT else self.name)

    @property
    def suffix(self) -> str:
        """How its name ends, in small letters."""
        return self.path.suffix.casefold()

    def content(self) -> bytes:
        """All of it."""
        return sys.stdin.buffer.read() if self.name == STANDARD_INPUT else self.path.read_bytes()

    @contextmanager
    def lines(self) -> Iterator[TextIO]:
        """Its lines, read as they are asked for, in UTF-8 with or without a byte order mark."""
        if self.name != STANDARD_INPUT:
            with self.path.open(encoding="utf-8-sig", newline="") as lines:
                yield lines
            return
        text = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
        try:
            yield text
        finally:
            text.detach()  # or closing it would close standard input

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Mistakes found meanwhile are this file's, whatever key they would have in training."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(*(re.sub(r"^[\w.]+:", f"INPUT {self.number}:", p) for p in error.problems)) from error
        except OSError as error:
            wanted = f"a file that can be read at {self.path}"
            raise ConfigError(format_error(f"INPUT {self.number}", wanted, error.strerror or str(error))) from error


def check(names: Iterable[str]) -> None:
    """Refuse what is not there or may not be read, before anything is done.

    Raises:
        ConfigError: With a line for each.
    """
    names = list(names)
    problems = [line for number, name in enumerate(names, 1) if (line := _mistake(number, name))]
    if names.count(STANDARD_INPUT) > 1:
        problems.append(format_error("INPUT", f"{STANDARD_INPUT} once", f"{names.count(STANDARD_INPUT)} times"))
    if problems:
        raise ConfigError(*problems)


def _mistake(number: int, name: str) -> str | None:
    if name == STANDARD_INPUT:
        return None if sys.stdin else format_error(f"INPUT {number}", "standard input", "a closed one")
    there = os.path.exists(name)  # Path.exists raises for a name that is too long
    if there and os.access(name, os.R_OK):
        if _is_strange(Path(name)):
            hint = f"A pipe can be standard input: {STANDARD_INPUT} < {name}"
            return format_error(f"INPUT {number}", f"a file, a folder or {STANDARD_INPUT}", name, hint)
        return None
    if there:
        return format_error(f"INPUT {number}", "a file that may be read", name)
    return format_error(f"INPUT {number}", "an existing file or folder", name, nearest_file(name))


def _is_strange(path: Path) -> bool:
    """Whether it is a pipe or a device, of which some never end."""
    return path.exists() and not (path.is_file() or path.is_dir())
