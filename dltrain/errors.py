"""What a user did wrong, said once and clearly. Every module may use it."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

from dltrain import redaction

LONGEST = 240  # letters of a value that are shown


class Refusal(Exception):
    """The command ends with an exit code of its own, one line per problem and no traceback.

    Args:
        problems: One line (or short paragraph) each.
    """

    code: ClassVar[int]

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ConfigError(Refusal):
    """Mistakes in what the user asked for, each of the form ``key: expected X, got Y``; see `problem`."""

    code = 2


class CheckpointError(Refusal):
    """Checkpoints that are refused, each file with the reason; nothing is overwritten."""

    code = 5


class WorkerError(Refusal):
    """A process that reads data is gone or hangs: who it was, and what to do."""

    code = 1


class OutputError(Refusal):
    """Standard output takes nothing: it is closed or full."""

    code = 1


class OutOfMemory(Refusal):
    """There is not enough memory for what was asked, and what asks for less."""

    code = 4


def problem(key: str, expected: str, got: object, hint: str = "") -> str:
    """One mistake as one line: the key, what was expected, what was received and what to do."""
    line = f"{key}: expected {expected}, got {show(redaction.masked(got, key))}"
    return f"{line}. {hint}" if hint else line


def show(value: object) -> str:
    """A value as a user would type it; only what is longer than any path is shortened."""
    text = "nothing" if value is None else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that proposes the known name most like ``name``, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else ""
