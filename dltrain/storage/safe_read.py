"""Read small untrusted text, JSON and YAML files: regular files only, bounded size and nesting."""

import json
import math
import stat
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2**26  # the files of a sweep of ten thousand jobs are smaller
MAX_YAML_BYTES = 2**20  # parsing YAML takes seconds per megabyte
MAX_DEPTH = 64  # levels of nested lists and mappings

TOO_DEEP = f"it nests lists and mappings more than {MAX_DEPTH} levels deep"


def read_text(file: Path, max_bytes: int = MAX_BYTES) -> str:
    """Read a text file; raise `ValueError` if it is not a regular file (a pipe would block), not UTF-8 or too large."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_size > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return file.read_text("utf-8")


def parse_json(text: str) -> Any:
    """Parse JSON; raise `ValueError` if it is invalid or nested too deeply."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    level, depth = [value], 0
    while containers := [node for node in level if isinstance(node, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(TOO_DEEP)
        level = [item for node in containers for item in (node.values() if isinstance(node, dict) else node)]
    return value


def parse_mapping(text: str) -> dict[str, Any]:
    """Parse a JSON object; return an empty dictionary if the text is not a JSON object."""
    try:
        value = parse_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def read_mapping(file: Path) -> dict[str, Any]:
    """Read a JSON object from a file; return an empty dictionary if there is none or the file cannot be read."""
    try:
        return parse_mapping(read_text(file))
    except (OSError, ValueError):
        return {}


def get_mapping(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the dictionary at a key, or an empty dictionary if there is none."""
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> bool:
    """Return whether a value is an int or float, but not a bool, and finite as a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def read_yaml_text(file: Path) -> str:
    """Return the text of a YAML file after checks that make it safe to parse.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file has anchors or aliases (a few lines can expand to gigabytes) or lone surrogates, is too
            large or nested too deeply, or is not a regular UTF-8 file.
        YAMLError: The file is not valid YAML.
    """
    text, depth = read_text(file, MAX_YAML_BYTES), 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if getattr(event, "anchor", None) is not None:  # the name of an anchor or alias
            raise ValueError("it has anchors or aliases, which dltrain does not write")
        if isinstance(event, yaml.ScalarEvent):
            event.value.encode()  # a lone surrogate could not be written to the run's files
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(TOO_DEEP)
    return text
