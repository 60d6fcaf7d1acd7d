"""What the arguments of every kind of data must keep to."""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from dltrain.errors import ConfigError, format_error, suggest


def at_least(key: str, value: int, least: int) -> int:
    """``value``, if it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(format_error(key, f"a whole number of at least {least}", value))
    return value


def fraction(key: str, value: float, zero: bool = True) -> float:
    """``value``, if it is a part of one: below 1, and above 0 unless ``zero`` is welcome."""
    if not 0 <= value < 1 or (value == 0 and not zero):
        raise ConfigError(format_error(key, f"a fraction from 0 {'' if zero else '(without 0) '}to below 1", value))
    return value


def fractions(validation: float, test: float) -> None:
    """Refuse held out parts that leave nothing to train on."""
    fraction("data.validation", validation)
    fraction("data.test", test, zero=False)
    if validation + test >= 1:
        both = f"{validation} + {test}"
        raise ConfigError(
            format_error("data.validation", "validation + test below 1, so that a part is left to train", both)
        )


def one_of(key: str, value: str, known: Iterable[str]) -> str:
    """``value``, if it is one of the known names."""
    names = list(known)
    if value not in names:
        raise ConfigError(format_error(key, f"one of {', '.join(names)}", value, suggest(str(value), names)))
    return value


def file(path: str, what: str) -> Path:
    """The path of a file that is there."""
    found = os.path.expanduser(path)  # where Path.expanduser and Path.is_file raise, these say no
    if not os.path.isfile(found):
        raise ConfigError(format_error("data.path", what, path, nearest_file(path)))
    return Path(found)


def folder(path: str | Path, what: str) -> Path:
    """The path of a folder that is there."""
    found = os.path.expanduser(path)
    if not os.path.isdir(found):
        raise ConfigError(format_error("data.path", what, path))
    return Path(found)


def nearest_file(path: str) -> str:
    """Propose the file of the same folder whose name is most like that of one that is not there."""
    parent, name = os.path.split(path)
    try:
        beside = os.listdir(os.path.expanduser(parent or "."))
    except OSError:
        return ""
    close = get_close_matches(name, beside, n=1, cutoff=0.5)
    return f"Did you mean {os.path.join(parent, close[0])}?" if close else ""
