"""Exceptions that end a command with an exit code, and the format of their messages."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import ClassVar, TypeVar

from dltrain import redaction

T = TypeVar("T")

MAX_LENGTH = 240  # maximum number of characters of a value in a message


class DltrainError(Exception):
    """Base class of errors that end the command with exit code `code` and without a traceback.

    Args:
        problems: Messages, each a line or a short paragraph.
    """

    code: ClassVar[int]

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ConfigError(DltrainError):
    """Invalid configuration or arguments, one line per error; see `format_error`."""

    code = 2


class CheckpointError(DltrainError):
    """Failure to load a state file of a run, such as a checkpoint; the message gives the reason for each file."""

    code = 5


class WorkerError(DltrainError):
    """Death or timeout of a data loading worker, or lack of shared memory."""

    code = 1


class OutputError(DltrainError):
    """Failure to write to standard output: it is closed or full."""

    code = 1


class OutOfMemory(DltrainError):
    """Out-of-memory error; the message suggests how to use less memory."""

    code = 4


def format_error(key: str, expected: str, got: object, hint: str = "") -> str:
    """Return ``key: expected X, got Y. Hint.``, with secrets redacted."""
    line = f"{redaction.mask_override(key)}: expected {expected}, got {shorten(redaction.mask(got, key))}"
    return f"{line}. {hint}" if hint else line


def shorten(value: object) -> str:
    """Return `value` as text for a message, of at most `MAX_LENGTH` characters; booleans are written as in YAML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = "nothing" if value is None else "a group of keys" if isinstance(value, Mapping) else str(value)
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "..."


def enumerate_names(names: Iterable[str]) -> str:
    """Return names as an enumeration: ``channels, height and width``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean ...?" with the known name closest to `name`, or an empty string if none is close."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else ""


def choose(key: str, name: object, options: Mapping[str, T]) -> T:
    """Return the option called `name`.

    Raises:
        ConfigError: `name` is not an option; the message lists all names and suggests a similar one if there is one.
    """
    if isinstance(name, str) and name in options:
        return options[name]
    raise ConfigError(format_error(key, f"one of {' '.join(options)}", name, suggest(str(name), options)))
