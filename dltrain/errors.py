"""What a user did wrong, said once and clearly. Every module may use it."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

from dltrain import masking


class ConfigError(Exception):
    """One or more mistakes in what the user asked for; the command ends with exit code 2 and no traceback.

    Args:
        problems: One line (or short paragraph) per mistake, each of the form ``key: expected X, got Y``; see `problem`.
    """

    code: ClassVar[int] = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class CheckpointError(Exception):
    """Checkpoints that are refused; the command ends with exit code 5 and no traceback, and nothing is overwritten.

    Args:
        problems: One line for each file, with the reason.
    """

    code: ClassVar[int] = 5

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class WorkerError(RuntimeError):
    """A process that reads data is gone or hangs; the command ends with exit code 1 and no traceback.

    Args:
        problems: Who it was, and what to do.
    """

    code: ClassVar[int] = 1

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def problem(key: str, expected: str, got: object, hint: str = "") -> str:
    """One mistake as one line: the key, what was expected, what was received and what to do."""
    line = f"{key}: expected {expected}, got {show(masking.masked(got, key))}"
    return f"{line}. {hint}" if hint else line


def show(value: object) -> str:
    """A value as a user would type it, shortened."""
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that proposes the known name most like ``name``, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else ""
