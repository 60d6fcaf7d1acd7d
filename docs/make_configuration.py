"""Generate docs/configuration.md from conf/ and dltrain/config/schema.py: python docs/make_configuration.py."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dltrain.config import schema
from dltrain.config.groups import conf_dir

PAGE = Path(__file__).with_name("configuration.md")
GROUPS = {
    "": "Every run",
    "data": "`data=`",
    "model": "`model=`",
    "task": "`task=`",
    "optimizer": "`optimizer=`",
    "optimizer/schedule": "`optimizer/schedule=`",
    "regularization": "`regularization=`",
    "device": "`device=`",
}
HEAD = """# Configuration

Every key: its meaning, what it may be, and its default. Generated from `conf/` by `make docs`; a test checks that it is
up to date.

Set a key with `KEY=VALUE`, choose an option with `GROUP=OPTION`. Keys that a model or task pulls from the data
(`${spec.features}`) and those that follow another key (`${regularization.dropout}`) are left out.
`null` means no value.
"""


def rows_of(group: str, text: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield key, meaning, accepted values and default of each key of a YAML file.

    Raises:
        ValueError: If a key has no comment.
    """
    content = yaml.safe_load(text)
    target = str(content.get("_target_", ""))
    parents: list[str] = []
    for line in text.splitlines():
        if not (match := re.match(r"^( *)(\w+):(?: +(.*?))??(?: +# (.*))?$", line)):
            continue
        indent, name, value, meaning = len(match[1]) // 2, match[2], match[3], match[4]
        parents = [*parents[:indent], name]
        node = content
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        skipped = {"defaults", "hydra", "_target_", "_provides_"} & set(parents)
        if skipped or isinstance(node, dict) or "${" in str(value):
            continue
        key = ".".join([*group.replace("/", ".").split("."), *parents]).lstrip(".")
        if not meaning:
            raise ValueError(f"{key} has no comment that says what it means")
        yield f"`{key}`", meaning, accepted(key, node, target), f"`{yaml_text(node)}`"


def accepted(key: str, default: Any, target: str) -> str:
    """Return what a key accepts, in words."""
    field = schema.field_of(key, target)
    if field is not None:
        text = field.text.replace("one of ", "") if field.names else field.text
        text = " ".join(f"`{name}`" for name in field.names) or text
        return text + (" or a list of them" if field.many or isinstance(default, list) else "")
    return "" if default is None or default == "auto" else schema.KINDS[type(default)][1]


def yaml_text(value: Any) -> str:
    """Return a value as YAML writes it on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def table(group: str) -> str:
    """Return the table of a group; equal rows of several options share one."""
    files = sorted((conf_dir() / group).glob("*.yaml")) if group else [conf_dir() / "config.yaml"]
    found: dict[tuple[str, ...], list[str]] = {}
    for file in files:
        for row in rows_of(group, file.read_text("utf-8")):
            found.setdefault(row, []).append(file.stem)
    names = [file.stem for file in files]
    single = len(files) == 1 or group in ("regularization", "device")
    lines = ["| key | meaning | values | default |", "| --- | --- | --- | --- |"]
    if not single:
        lines = ["| key | meaning | values | default | options |", "| --- | --- | --- | --- | --- |"]
    for row, options in sorted(found.items(), key=lambda item: (item[0][0], item[1])):
        if single and options[0] not in (names[0], "none", "auto"):
            continue  # other options only set other defaults
        shown = "all" if len(options) == len(names) else " ".join(f"`{name}`" for name in options)
        cells = [*row] if single else [*row, shown]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(f"\n## {title}\n\n{table(group)}\n" for group, title in GROUPS.items())


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
