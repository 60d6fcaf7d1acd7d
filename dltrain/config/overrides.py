"""Parse the overrides of a command line, and expand the overrides of a sweep into single values."""

import functools
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from dltrain import redaction
from dltrain.config import schema
from dltrain.errors import MAX_LENGTH, format_error, shorten, suggest

QUOTES = set("'\"[]{}")
LISTS = ("betas", "quantiles")  # keys whose value is always a list

Options = Callable[[str], Sequence[str]]  # group -> names of its options; empty if there is no such group


@functools.cache
def parse_override(text: str) -> Override:
    """Parse one override with Hydra; raise `HydraException` if it is not valid."""
    try:
        return OverridesParser.create().parse_override(text)
    except (ValueError, RecursionError) as error:  # too many digits or brackets
        raise HydraException(str(error)) from error


def allowed_modules(typed: list[str]) -> list[str]:
    """Return the module prefixes in the ``allow_targets=`` overrides of a command line."""
    values = [word.split("=", 1)[1] for word in typed if word.startswith("allow_targets=")]
    return [name.strip() for value in values for name in value.strip("[]").split(",") if name.strip()]


def parse(typed: list[str], options: Options) -> tuple[list[Override], list[str]]:
    """Return the parsed overrides, and an error for each one that is not valid."""
    parsed, errors = [], []
    for text in typed:
        key, equals, _ = text.partition("=")
        if not key.lstrip("~+") or not (equals or text.startswith("~")):
            is_path = os.path.exists(text)
            hint = f"Did you mean data.path={text}?" if is_path else suggest(text, ("--help", "--multirun"))
            errors.append(format_error(text, "KEY=VALUE or GROUP=OPTION", text, hint))
            continue
        try:
            parsed.append(parse_override(to_hydra_syntax(text, options)))
        except HydraException as error:
            shown = redaction.mask_override(text)
            # Do not suggest quotes for a function call with wrong arguments ("while evaluating").
            quotable = len(shown) < MAX_LENGTH and "while evaluating" not in str(error)
            hint = _quoting_hint(shown) if quotable else ""
            errors.append(f"{shorten(shown)}: cannot be parsed: {shorten(str(error).splitlines()[0])}{hint}")
    return parsed, errors


def _quoting_hint(text: str) -> str:
    """Return a hint to quote the value if that makes the override valid, else an empty string."""
    key, _, value = text.partition("=")
    quoted = f"{key}='{value}'"
    try:
        parse_override(quoted)
    except HydraException:
        return ""
    special = set('"$`\\!') & set(value)
    return f". Quote it: {shlex.quote(quoted) if special else f'{chr(34)}{quoted}{chr(34)}'}"


def to_hydra_syntax(text: str, options: Options) -> str:
    """Return an override in the syntax of Hydra.

    ``optimizer.schedule=cosine`` becomes ``optimizer/schedule=cosine``, ``GROUP=null`` becomes ``~GROUP``, and a path
    ``~/x.csv`` is quoted: shells do not expand this tilde, and Hydra rejects an unquoted one.
    """
    key, equals, value = text.partition("=")
    if value.startswith("~") and not QUOTES & set(value):
        text = f"{key}=" + ",".join(f"'{part}'" if part.startswith("~") else part for part in value.split(","))
    group = key.replace(".", "/")
    if "." in key and not value.startswith("{") and options(group.lstrip("+~")):
        text, key = f"{group}{equals}{value}", group
    return f"~{key}" if value == "null" and options(key) else text


def single_values(parsed: list[Override]) -> tuple[list[list[Override]], list[str]]:
    """Return the overrides of a single run, each in its own list, and an error for each key with several values."""
    errors = []
    for text in (redaction.mask_override(str(o.input_line)) for o in parsed if o.is_sweep_override()):
        key, _, value = text.partition("=")
        hints = [f"To run all of them, add -m: dltrain -m {shlex.quote(text)}"]
        field = schema.field_of(key)
        if os.path.exists(value):
            hints = [f"""Quote it: "{key}='{value}'\""""]
        elif "." in key and field is None and any(" " in part.strip() for part in value.split(",")):
            hints.append("To pass one text, quote it: " + shlex.quote(f'{key}="{value}"'))
        elif "." in key and "(" not in value and (field is None or field.many or key.endswith(LISTS)):
            hints.append(f"A list is written in brackets: {shlex.quote(f'{key}=[{value}]')}")
        errors.append(format_error(key, "one value", value, ". ".join(hints)))
    return [[o] for o in parsed if not o.is_sweep_override()], errors


def sweep_values(parsed: list[Override], options: Options) -> tuple[list[list[Override]], list[str]]:
    """Return the single-value overrides that each override expands to, and an error for each that has none."""
    values, errors = [], []
    for override in parsed:
        if override.value_type is ValueType.INTERVAL_SWEEP:
            hint = "Use range(START,STOP,STEP) or a list of values."
            errors.append(f"{override.input_line}: not supported because an interval has no list of values. {hint}")
            continue
        try:
            values.append([parse_override(text) for text in _each_value(override, options)])
        except HydraException as error:
            shown = redaction.mask_override(str(override.input_line))
            errors.append(f"{shown}: cannot be swept: {error}")
            continue
        if not values[-1]:
            errors.append(f"{override.input_line}: expected at least one value, got none")
    return [each for each in values if each], errors


def _each_value(override: Override, options: Options) -> list[str]:
    """Return one override per value, as text."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        found = override.value().filter(options(override.key_or_group))  # type: ignore[union-attr]
    else:
        found = list(override.sweep_string_iterator())
    return [f"{override.get_key_element()}={value}" for value in found]


def apply(override: Override, content: dict[str, Any], merge: bool = True) -> str | None:
    """Set, add or delete a key of a configuration in place; return the error if that is not possible, else None.

    Args:
        merge: Whether a mapping is merged into the key's current mapping instead of replacing it.
    """
    *parents, name = override.key_or_group.split(".")
    node: Any = content
    found: list[str] = []
    try:
        for part in parents:
            if isinstance(node, dict) and node.get(part) is None:
                node[part] = {}
            node = node[_index(node, part)]
            found.append(part)
        if override.is_delete():
            node.pop(name, None)
        elif merge and isinstance(node, dict):
            node[name] = _merged(node.get(name), override.value())
        else:
            node[_index(node, name)] = override.value()
    except (AttributeError, IndexError, TypeError):
        key, parent = f"{'~' if override.is_delete() else ''}{override.key_or_group}", ".".join(found)
        return f"{key}: not supported because {parent} is not a mapping. Set {parent} itself."
    return None


def _index(node: Any, part: str) -> int | str:
    """Return a part of a key as an index of a list or a key of a mapping."""
    return int(part) if isinstance(node, list) and part.isdecimal() else part


def _merged(old: Any, new: Any) -> Any:
    """Return `new`, merged into `old` if both are mappings."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}
