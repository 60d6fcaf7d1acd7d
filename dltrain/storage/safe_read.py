"""Small files that anybody may have written, read as data: none of them is waited for, fills memory or ends in a
traceback.

Imports nothing of dltrain's, so that every module may use it.
"""

import json
import math
import stat
from pathlib import Path
from typing import Any

import yaml

LARGEST = 2**26  # bytes of a file that is read whole: a sweep of ten thousand jobs has less
LARGEST_YAML = 2**20  # reading YAML takes seconds per megabyte
DEEPEST = 64  # lists and mappings within one another

TOO_DEEP = f"it has more than {DEEPEST} lists and mappings within one another"


def read_text(file: Path, largest: int = LARGEST) -> str:
    """What a file holds.

    Raises:
        OSError: When it is not there or may not be read.
        ValueError: When it is large, no text in UTF-8, or something else than a file: a pipe is waited for, for ever.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no file")
    if found.st_size > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return file.read_text("utf-8")


def parse_json(content: str) -> Any:
    """A text of JSON as the value that it stands for.

    Raises:
        ValueError: When it stands for none, or for one that is nested deeper than anything dltrain writes.
    """
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    level, depth = [found], 0
    while nodes := [node for node in level if isinstance(node, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(TOO_DEEP)
        level = [item for node in nodes for item in (node.values() if isinstance(node, dict) else node)]
    return found


def parse_mapping(content: str) -> dict[str, Any]:
    """What a text of JSON says by name; empty where it says nothing so."""
    try:
        found = parse_json(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_mapping(file: Path) -> dict[str, Any]:
    """What a file of JSON says by name; empty where it cannot be read."""
    try:
        return parse_mapping(read_text(file))
    except (OSError, ValueError):
        return {}


def get_mapping(content: dict[str, Any], name: str) -> dict[str, Any]:
    """What stands below a name; empty where nothing does."""
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def read_yaml_text(file: Path) -> str:
    """A file of YAML that is as long as what is in it: a few lines of anchors and aliases stand for gigabytes.

    Raises:
        OSError: When it is not there or may not be read.
        ValueError: When it has anchors or aliases, is large or deeply nested, or no text.
        YAMLError: When it is no YAML.
    """
    found, depth = read_text(file, LARGEST_YAML), 0
    for event in yaml.parse(found, Loader=yaml.SafeLoader):
        if getattr(event, "anchor", None) is not None:  # of an alias, too
            raise ValueError("it has anchors or aliases, which dltrain does not write")
        if isinstance(event, yaml.ScalarEvent):
            event.value.encode()  # half of a pair of characters cannot be written into any file of a run's
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(TOO_DEEP)
    return found
