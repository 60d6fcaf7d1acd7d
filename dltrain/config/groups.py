"""Files and names of the YAML groups. Imports neither Hydra nor OmegaConf, so that help stays fast."""

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from dltrain.errors import ConfigError, format_error, suggest

# Matches overrides such as data.KEY=VALUE and ~optimizer/schedule, but also paths such as sweep/0_model=lstm.
OVERRIDE = re.compile(r"[+~]*[a-zA-Z_][\w./@]*=|~[a-zA-Z_]")


def conf_dir() -> Path:
    """Return the folder of YAML groups: next to the package in a checkout, inside it in a wheel."""
    package = Path(__file__).parents[1]
    checkout = package.parent / "conf"
    return checkout if (checkout / "config.yaml").is_file() else package / "conf"


def search_dirs(config_dirs: Sequence[str]) -> tuple[Path, ...]:
    """Return the folders to search: dltrain's own and the user's."""
    missing = [folder for folder in config_dirs if not Path(folder).is_dir()]
    if missing:
        expected = "an existing folder of YAML groups"
        raise ConfigError(*(format_error("--config-dir", expected, name) for name in missing))
    return (conf_dir(), *map(Path, config_dirs))


def list_groups(config_dirs: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the sorted options of each group except ``hydra``: ``{"model": ["cnn", ...], ...}``."""
    found: dict[str, set[str]] = {}
    for root in search_dirs(config_dirs):
        for file in root.glob("*/**/*.yaml"):
            found.setdefault(file.parent.relative_to(root).as_posix(), set()).add(file.stem)
    return {group: sorted(found[group]) for group in sorted(found) if group.split("/")[0] != "hydra"}


def is_override(word: str) -> bool:
    """Return whether a word of a command line is an override, not a path.

    An existing path is not an override. If the part before ``=`` has a slash, it must name a group:
    ``sweep/0_model=lstm`` is a path. A misspelled key counts as a key.
    """
    if not OVERRIDE.match(word) or os.path.exists(word):
        return False
    key = word.lstrip("+~").partition("=")[0].partition("@")[0]
    if "/" in key:
        return (conf_dir() / key).is_dir()
    name = key.partition(".")[0]
    return name in known_names() or bool(suggest(name, known_names("config.yaml")))


@functools.cache
def known_names(pattern: str = "**/*.yaml") -> frozenset[str]:
    """Return the names of top-level groups and of keys in dltrain's YAML files whose paths match the glob `pattern`."""
    groups = (entry.name for entry in conf_dir().iterdir() if entry.is_dir())
    texts = (file.read_text(encoding="utf-8") for file in conf_dir().glob(pattern))
    return frozenset([*groups, *(name for text in texts for name in re.findall(r"^ *(\w+):", text, re.MULTILINE))])
