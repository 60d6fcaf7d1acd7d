"""Generate docs/configuration.md from conf/, dltrain/config/schema.py and the constructors.

Run it with ``make docs``.
"""

import re
import types
import typing
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dltrain.config import schema, signatures
from dltrain.config.groups import conf_dir
from dltrain.config.instantiate import find_target
from dltrain.training.device import select_device

PAGE = Path(__file__).with_name("configuration.md")
GROUPS = (
    "data",
    "model",
    "task",
    "optimizer",
    "optimizer/schedule",
    "regularization",
    "augment",
    "transfer",
    "device",
    "experiment",
)
HEAD = """# Configuration

The keys of a run, with their meaning, valid values and defaults. This page is generated from `conf/` by `make docs`,
and a test checks that it is up to date.

Set a key with `KEY=VALUE` and choose an option with `GROUP=OPTION`. `null` means no value; `???` means that you must
set the value. The tables omit keys that are set from the data or the task (`${spec.features}`) or that follow another
key: `model.dropout` of most models follows `regularization.dropout`, for example.
`dltrain --cfg job` prints all keys of one run.
"""
LEFT_OUT = {"defaults", "_target_", "_provides_", "job", "output_subdir"}


class Row(NamedTuple):
    """Row of the page's tables: a key of one option."""

    key: str
    meaning: str
    values: str
    default: str


def rows_of(group: str, text: str) -> Iterator[Row]:
    """Yield a row for each key of a YAML file, except mappings, references to other keys and `LEFT_OUT`.

    Raises:
        ValueError: A key has no comment.
    """
    content = yaml.safe_load(text)
    parents: list[str] = []
    for line in text.splitlines():
        if not (match := re.match(r"^( *)(\w+):(?: +(.*?))??(?: +# (.*))?$", line)):
            continue
        parents = [*parents[: len(match[1]) // 2], match[2]]
        node = content
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        if LEFT_OUT & set(parents) or isinstance(node, dict) or re.search(r"\${(?!oc)", str(match[3])):
            continue
        key = ".".join([*filter(None, group.split("/")), *parents])
        if not match[4]:
            raise ValueError(f"{key}: expected a comment on its meaning, got none")
        target = str(content.get("_target_", ""))
        shown = re.sub(r"\$\{oc\.env:(\w+),\"(.*)\"\}", r"$\1, else \2", yaml_text(node))
        yield Row(f"`{key}`", match[4], accepted(key, node, target), f"`{shown}`")


def accepted(key: str, default: Any, target: str) -> str:
    """Return the values that a key accepts, in words, from its range in the schema and its annotation."""
    field, hint = schema.field_of(key, target), annotation(key, target)
    kinds = alternatives(hint) if hint else []
    listed = [kind for kind in kinds if typing.get_origin(kind) in (list, tuple)]
    plain = [kind for kind in kinds if kind not in listed and kind is not type(None)]
    many = field is not None and field.many
    lists = bool(listed) if kinds else many or isinstance(default, list)
    scalar = bool(plain) if kinds else many or not isinstance(default, list)
    null = default is None or (type(None) in kinds if kinds else bool(field and field.null))
    if field is None:
        words = " or ".join(dict.fromkeys(signatures.describe(kind) for kind in [*plain, *listed]))
        words = words.replace("one of ", "") or schema.KINDS[str if default is None else type(default)][1]
    else:
        words = " ".join(f"`{name}`" for name in field.names) or field.text
        several = "a list of them" if scalar else f"a list whose elements are each {words}"
        words = f"{words} or {several}" if lists and scalar else several if lists else words
    if not null:
        return words
    return f"null or {words}" if words.startswith("a list") else f"{words} or null"


def annotation(key: str, target: str) -> Any:
    """Return the annotation of the argument that a key sets, or None if it sets no argument directly."""
    if not target and not key.startswith("device."):
        return None
    function = find_target(target, key, ()) if target else select_device
    return signatures.annotations(function).get(key.rsplit(".", 1)[-1])


def alternatives(hint: Any) -> list[Any]:
    """Return the members of a union, or the annotation itself."""
    return [*typing.get_args(hint)] if typing.get_origin(hint) in (typing.Union, types.UnionType) else [hint]


def yaml_text(value: Any) -> str:
    """Return a value as YAML writes it on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip().strip("'")


def description(text: str) -> str:
    """Return the first sentence of the comment at the top of a YAML file."""
    comment = re.match(r"(?:# @package .*\n)?((?:#.*\n)+)", text)
    joined = comment[1].replace("\n", "").replace("#", "").strip() if comment else ""
    return re.split(r"(?<=[^.]\.) +(?=[A-Z])", joined)[0].replace("  ", " ")


def settings(text: str, files: dict[str, str]) -> dict[str, Any]:
    """Return the keys that a preset (an option with ``defaults``) sets, including those of presets that it extends."""
    node = yaml.safe_load(text)
    inherited = [name for name in node.pop("defaults", []) if "defaults:" in files.get(name, "")]
    return {k: v for name in inherited for k, v in settings(files[name], files).items()} | node


def options_table(files: dict[str, str], sets: bool) -> str:
    """Return the table of a group's options; if `sets` is true, with the keys that each preset sets."""
    lines = ["| option | |", "| --- | --- |"]
    for name, text in files.items():
        values = settings(text, files) if sets and "defaults:" in text else {}
        shown = f" Sets {', '.join(f'`{key}: {yaml_text(value)}`' for key, value in values.items())}." if values else ""
        lines.append(f"| `{name}` | {description(text).replace('<', '&lt;')}{shown} |")
    return "\n".join(lines)


def keys_table(group: str, files: dict[str, str]) -> str:
    """Return the table of a group's keys. Options share a row if their key has the same meaning and values."""
    found: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for option, text in files.items():
        for row in rows_of(group, text):
            found[row[:3]][option] = row.default
    named = len(files) > 1
    lines = [
        "| key | meaning | values | default |" + " options |" * named,
        "| --- | --- | --- | --- |" + " --- |" * named,
    ]
    for (key, meaning, values), defaults in sorted(found.items(), key=lambda item: item[0][0].strip("`")):
        cells = [key, meaning, values, defaults_text(defaults)]
        if named:
            cells.append("all" if len(defaults) == len(files) else " ".join(f"`{option}`" for option in defaults))
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(lines)


def defaults_text(defaults: dict[str, str]) -> str:
    """Return the most common default of a key, then the other defaults with their options."""
    common = Counter(defaults.values()).most_common(1)[0][0]
    others: dict[str, list[str]] = defaultdict(list)
    for option, default in defaults.items():
        if default != common:
            others[default].append(f"`{option}`")
    return "; ".join([common, *(f"{default} for {' '.join(options)}" for default, options in others.items())])


def page() -> str:
    """Return the whole page."""
    parts = [
        HEAD,
        "\n## Every run\n\n",
        keys_table("", {"config": (conf_dir() / "config.yaml").read_text("utf-8")}),
        "\n",
    ]
    for group in GROUPS:
        files = {file.stem: file.read_text("utf-8") for file in sorted((conf_dir() / group).glob("*.yaml"))}
        presets = group in ("regularization", "augment", "device")
        base = {name: text for name, text in files.items() if "defaults:" not in text} if presets else files
        parts += [f"\n## `{group}=`\n\n", options_table(files, sets=presets), "\n"]
        parts += ["\n", keys_table(group, base), "\n"] if group != "experiment" else []
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
