"""Secrets stay out of what a run writes: by the name of their key, and by their value wherever else it turns up.

Imports nothing of dltrain's, so that every module may use it.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

MASK = "***"
NAMES = {"token", "secret", "secrets", "password", "passwords", "passwd", "apikey", "credential", "credentials", "auth"}
NAMES |= {"oauth", "authorization", "passphrase"}
KEYS = {"api", "access", "private"}  # before "key" or "keys"
LEAST = 4  # a shorter value is masked where its key stands, not wherever the same letters do

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
REFERENCE = re.compile(r"\$\{[^,}]*\}+")  # ${oc.env:NAME} says where a secret lies, not what it is
PAIR = re.compile(r"""([\w.\-/]+)(\s*[:=]\s*)('[^']*'|"[^"]*"|[^\s,\]}{\[]+)""")

_known: set[str] = set()


def is_secret(key: str) -> bool:
    """Whether the name of a key says that its value is a secret; ``tokens``, ``pad`` and ``author`` do not."""
    words = [word.lower() for word in WORD.findall(key)]
    pairs = itertools.pairwise(words)
    return bool(NAMES.intersection(words)) or any(a in KEYS and b in ("key", "keys") for a, b in pairs)


def is_literal(key: str, value: Any) -> bool:
    """Whether a value below a secret key is one itself: not empty, no reference and no switch.

    A number below ``token`` is an index or a size.
    """
    if isinstance(value, str):
        return value not in ("", "???", MASK) and not REFERENCE.fullmatch(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and is_secret(re.sub("token", "", key, flags=re.IGNORECASE))


def masked(value: Any, key: str = "") -> Any:
    """A configuration with its secrets masked; what refers to one stays.

    Args:
        value: Plain dictionaries, lists and values.
        key: Where it stands.
    """
    if isinstance(value, Mapping):
        return {name: item if name == "_target_" else masked(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        items = [masked(item, key) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if is_secret(key) and is_literal(key, value):
        return MASK
    return hidden(value) if isinstance(value, str) else value


def masked_word(word: str) -> str:
    """One word of a command line with what is secret in it masked: ``model.api_key=***``."""
    key, equals, value = word.partition("=")
    if equals and is_secret(key):
        return f"{key}={MASK}" if is_literal(key, _read(value)) else word
    return hidden(PAIR.sub(lambda m: m[0] if not _pair_is_secret(m) else f"{m[1]}{m[2]}{MASK}", word))


def _pair_is_secret(match: re.Match[str]) -> bool:
    return is_secret(match[1]) and is_literal(match[1], _read(match[3]))


def _read(text: str) -> Any:
    """A typed value as YAML would read it."""
    plain = {"true": True, "false": False, "null": None}
    if text.lower() in plain:
        return plain[text.lower()]
    return int(text) if re.fullmatch(r"-?\d+", text) else text.strip("'\"")


def asked_again(content: Any, key: str = "") -> Iterator[str]:
    """The keys of a stored configuration whose values were masked."""
    if isinstance(content, Mapping | list):
        for name, item in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from asked_again(item, f"{key}.{name}" if key else str(name))
    elif content == MASK:
        yield key


def learn(values: Any, key: str = "") -> None:
    """Know the secrets of a configuration, so that `hidden` finds them."""
    if isinstance(values, Mapping):
        for name, item in values.items():
            if name != "_target_":
                learn(item, f"{key}.{name}")
    elif isinstance(values, list | tuple):
        for item in values:
            learn(item, key)
    elif is_secret(key) and is_literal(key, values) and len(str(values)) >= LEAST:
        _known.add(str(values))


def learn_words(words: list[str]) -> None:
    """Know the secrets on a command line before it is understood."""
    for word in words:
        key, equals, value = word.partition("=")
        pairs = [(key, value)] if equals and is_secret(key) else [(m[1], m[3]) for m in PAIR.finditer(word)]
        for name, item in pairs:
            # A value may be a list of a sweep: each of its items is a secret, too.
            for part in {item, *item.strip("[]").split(",")}:
                learn(_read(part.strip()), name)


def hidden(text: str) -> str:
    """Text with every secret that is known masked."""
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


def forget() -> None:
    """Know no secrets any more; for a process that runs several commands."""
    _known.clear()
