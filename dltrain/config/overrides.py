"""What a user typed, word by word: overrides read, and the values of a sweep spread out."""

import functools
import shlex
from collections.abc import Callable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from dltrain import redaction
from dltrain.errors import format_error, suggest

QUOTES = set("'\"[]{}")

Options = Callable[[str], Sequence[str]]


@functools.cache
def read(text: str) -> Override:
    """One override as Hydra reads it."""
    return OverridesParser.create().parse_override(text)


def allowed_modules(typed: list[str]) -> list[str]:
    """Return the module prefixes that ``allow_targets=`` on a command line lets YAML name."""
    values = [word.split("=", 1)[1] for word in typed if word.startswith("allow_targets=")]
    return [name.strip() for value in values for name in value.strip("[]").split(",") if name.strip()]


def parse(typed: list[str], options: Options) -> tuple[list[Override], list[str]]:
    """The overrides as Hydra reads them, and the mistakes in those that it cannot read."""
    parsed, problems = [], []
    for text in typed:
        key, equals, _ = text.partition("=")
        if not key or not (equals or text.startswith("~")):
            problems.append(
                format_error(text, "KEY=VALUE or GROUP=OPTION", text, suggest(text, ("--help", "--multirun")))
            )
            continue
        try:
            parsed.append(read(as_hydra_says(text, options)))
        except HydraException as error:
            shown = redaction.mask_override(text)
            problems.append(f"{shown}: cannot be read: {str(error).splitlines()[0]}{in_quotes(shown)}")
    return parsed, problems


def in_quotes(text: str) -> str:
    """A sentence that proposes a value in quotes where that can be read, or an empty string."""
    key, _, value = text.partition("=")
    quoted = f"{key}='{value}'"
    try:
        read(quoted)
    except HydraException:
        return ""
    special = set('"$`\\!') & set(value)
    return f". Quote it: {shlex.quote(quoted) if special else f'{chr(34)}{quoted}{chr(34)}'}"


def as_hydra_says(text: str, options: Options) -> str:
    """``optimizer.schedule=cosine`` for ``optimizer/schedule=cosine``, and ``GROUP=null`` for ``~GROUP``.

    A path in the home of a user, ``~/x.csv``, which a shell leaves as it is behind an equals sign, is put into quotes.
    """
    key, equals, value = text.partition("=")
    if value.startswith("~") and not QUOTES & set(value):
        text = f"{key}=" + ",".join(f"'{part}'" if part.startswith("~") else part for part in value.split(","))
    group = key.replace(".", "/")
    if "." in key and not value.startswith("{") and options(group.lstrip("+~")):
        text, key = f"{group}{equals}{value}", group
    return f"~{key}" if value == "null" and options(key) else text


def single(parsed: list[Override]) -> tuple[list[list[Override]], list[str]]:
    """One value for each key, and the mistakes in those that have several."""
    return [[o] for o in parsed if not o.is_sweep_override()], [several(o) for o in parsed if o.is_sweep_override()]


def several(override: Override) -> str:
    """Say that there are several values where one is needed."""
    text = redaction.mask_override(str(override.input_line))
    key, _, value = text.partition("=")
    return format_error(key, "one value", value, f"To run all of them, add -m: dltrain -m {shlex.quote(text)}")


def spread(parsed: list[Override], options: Options) -> tuple[list[list[Override]], list[str]]:
    """All values for each key, and the mistakes in those that have none."""
    values, problems = [], []
    for override in parsed:
        try:
            values.append([read(text) for text in texts(override, options)])
        except HydraException as error:
            values.append([])
            problems.append(f"{redaction.mask_override(str(override.input_line))}: cannot be swept: {error}")
        else:
            if not values[-1]:
                problems.append(f"{override.input_line}: expected at least one value, got none")
    return [found for found in values if found], problems


def texts(override: Override, options: Options) -> list[str]:
    """An override for each value of a key."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        found = override.value().filter(options(override.key_or_group))  # type: ignore[union-attr]
    else:
        found = list(override.sweep_string_iterator())
    return [f"{override.get_key_element()}={value}" for value in found]
