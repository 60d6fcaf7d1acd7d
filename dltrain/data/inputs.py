"""User-provided inputs for prediction: files, folders, standard input, or text on the command line."""

import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from dltrain.data.checks import similar_file
from dltrain.data.folders import find_files
from dltrain.errors import ConfigError, format_error

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class InputFiles:
    """The inputs of a command.

    Args:
        names: Paths of files and folders, or ``-`` for standard input.
        text: Text from the command line, for text data; None if there is none.
        batch_size: Approximate number of examples to read at a time.
    """

    names: tuple[str, ...] = ()
    text: str | None = None
    batch_size: int = 64

    def expand(self, expected: str, suffixes: Iterable[str] = ()) -> "Iterator[InputFile]":
        """Yield each file; for a folder, yield the files below it with one of `suffixes`, in alphabetical order.

        Args:
            expected: Kind of file that the data set reads, for messages.
            suffixes: Suffixes of the files to read in folders, in lower case; empty to reject folders.

        Raises:
            ConfigError: No input is given, text is given, or a folder cannot be read, has no matching file, or has a
                matching pipe or device.
        """
        if self.text is not None:
            hint = f"Pass {expected} as INPUT."
            raise ConfigError(f"--text: not supported because the inputs of this run are files. {hint}")
        if not self.names:
            raise ConfigError(format_error("INPUT", f"{expected}, or {STANDARD_INPUT} for standard input", None))
        for number, name in enumerate(self.names, 1):
            if not os.path.isdir(name):
                yield InputFile(number, name)
                continue
            with InputFile(number, name).errors_as_input():
                found = sorted(path for path in find_files(Path(name)) if path.suffix.casefold() in suffixes)
            if special := next(filter(_is_special, found), None):
                raise ConfigError(format_error(f"INPUT {number}", "regular files in a folder", special))
            if not found:
                got = f"a folder without {' '.join(suffixes)}" if suffixes else "a folder"
                raise ConfigError(format_error(f"INPUT {number}", expected, f"{got}: {name}"))
            yield from (InputFile(number, str(path)) for path in found)


@dataclass(frozen=True)
class InputFile:
    """One file, or standard input.

    Args:
        number: Position of its INPUT argument, from 1.
        name: Path of the file, or ``-``.
    """

    number: int
    name: str

    @property
    def path(self) -> Path:
        """Path of the file, or "standard input" for messages."""
        return Path("standard input" if self.name == STANDARD_INPUT else self.name)

    @property
    def suffix(self) -> str:
        """Suffix of the file name in lower case."""
        return self.path.suffix.casefold()

    def read_bytes(self) -> bytes:
        """Return the whole content."""
        return sys.stdin.buffer.read() if self.name == STANDARD_INPUT else self.path.read_bytes()

    @contextmanager
    def open_text(self) -> Iterator[TextIO]:
        """Open as UTF-8 text with an optional byte order mark; standard input stays open afterwards."""
        if self.name != STANDARD_INPUT:
            with self.path.open(encoding="utf-8-sig", newline="") as lines:
                yield lines
            return
        text = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
        try:
            yield text
        finally:
            text.detach()  # closing the wrapper would close standard input

    @contextmanager
    def errors_as_input(self) -> Iterator[None]:
        """Convert ConfigError and OSError to a ConfigError with the key ``INPUT n`` instead of a configuration key."""
        try:
            with errors_as(f"INPUT {self.number}"):
                yield
        except OSError as error:
            expected = f"a readable file at {self.path}"
            raise ConfigError(format_error(f"INPUT {self.number}", expected, error.strerror or str(error))) from error


@contextmanager
def errors_as(key: str) -> Iterator[None]:
    """Replace the key in the message of a ConfigError by `key`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(*(re.sub(r"^[\w.]+:", f"{key}:", line) for line in error.problems)) from error


def check_inputs(names: Iterable[str]) -> None:
    """Check that all inputs exist and are readable, before any of them is read.

    Raises:
        ConfigError: An input does not exist, cannot be read, or is a pipe or device; or standard input is closed or
            used more than once. The message has one line per error.
    """
    names = list(names)
    problems = [line for number, name in enumerate(names, 1) if (line := _problem_of(number, name))]
    if names.count(STANDARD_INPUT) > 1:
        problems.append(format_error("INPUT", f"at most one {STANDARD_INPUT}", names.count(STANDARD_INPUT)))
    if problems:
        raise ConfigError(*problems)


def _problem_of(number: int, name: str) -> str | None:
    key = f"INPUT {number}"
    if name == STANDARD_INPUT:
        return None if sys.stdin else f"{key}: standard input is closed"
    if not os.path.exists(name):  # Path.exists raises for a name that is too long
        return format_error(key, "an existing file or folder", name, similar_file(name))
    if not os.access(name, os.R_OK):
        return format_error(key, "a readable file", f"{name}, without permission to read it")
    if _is_special(Path(name)):
        hint = f"Pass a pipe as standard input: {STANDARD_INPUT} < {name}"
        return format_error(key, f"a file, a folder or {STANDARD_INPUT}", name, hint)
    return None


def _is_special(path: Path) -> bool:
    """Return whether a path is a pipe or a device, whose content may never end."""
    return path.exists() and not (path.is_file() or path.is_dir())
