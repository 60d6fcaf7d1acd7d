"""Checks of arguments that several data sets share."""

import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from dltrain.errors import ConfigError, format_error, suggest


def at_least(key: str, value: int, minimum: int) -> int:
    """Return ``value`` if it is an integer of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(format_error(key, f"a whole number of at least {minimum}", value))
    return value


def check_fraction(key: str, value: float, zero: bool = True) -> float:
    """Return ``value`` if it lies in [0, 1) or, if ``zero`` is false, in (0, 1)."""
    if not 0 <= value < 1 or (value == 0 and not zero):
        raise ConfigError(format_error(key, f"a fraction {'of at least' if zero else 'above'} 0 and below 1", value))
    return value


def check_held_out(validation: float, test: float) -> None:
    """Check that the fractions to hold out are valid and leave examples to train on."""
    check_fraction("data.validation", validation)
    check_fraction("data.test", test, zero=False)
    if validation + test >= 1:
        expected = "data.validation + data.test below 1, to leave examples to train on"
        raise ConfigError(format_error("data.validation", expected, f"{validation} + {test}"))


def check_class_names(names: Sequence[str] | None) -> None:
    """Check that ``data.class_names`` has no name twice."""
    if names and len(set(names)) < len(names):
        raise ConfigError(format_error("data.class_names", "different names", names))


def one_of(key: str, value: str, known: Iterable[str]) -> str:
    """Return ``value`` if it is one of the known names."""
    names = list(known)
    if value not in names:
        raise ConfigError(format_error(key, f"one of {', '.join(names)}", value, suggest(str(value), names)))
    return value


def user_path(path: str) -> Path:
    """Return a path with ``~`` expanded."""
    return Path(os.path.expanduser(path))  # Path.expanduser and Path.is_file raise for some names; os.path does not


def existing_file(path: str | Path, expected: str, key: str = "data.path") -> Path:
    """Return the path of an existing file, with ``~`` expanded."""
    found = user_path(str(path))
    if path and os.path.isdir(found):
        raise ConfigError(format_error(key, expected, f"the folder {path}"))
    if not os.path.isfile(found):
        raise ConfigError(format_error(key, expected, path or "an empty path", similar_file(str(path))))
    return found


def existing_folder(path: str | Path, expected: str) -> Path:
    """Return the path of an existing folder, with ``~`` expanded."""
    found = os.path.expanduser(path)
    if not os.path.isdir(found):
        raise ConfigError(format_error("data.path", expected, path))
    return Path(found)


def similar_file(path: str) -> str:
    """Return a hint for a missing file: a broken link, or the most similar file name in its folder; may be empty."""
    if os.path.islink(os.path.expanduser(path)):
        return "It is a broken link."
    parent, name = os.path.split(path)
    try:
        siblings = os.listdir(os.path.expanduser(parent or "."))
    except (OSError, ValueError):  # listdir raises ValueError for a null character
        return ""
    close = get_close_matches(name, siblings, n=1, cutoff=0.5)
    return f"Did you mean {os.path.join(parent, close[0])}?" if close else ""
