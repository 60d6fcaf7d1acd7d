"""Secrets stay out of what a run writes: by the name of their key, and by their value wherever else it turns up.

What has a structure (a configuration, JSON, the words of a command) is masked before it is written: below a key whose
name says so, whatever the value is; keys and what stands around them are never touched. In text (messages, a log, an
error) there are only values to go by, and the rule is:

- A value that is ordinary is masked only where its key's name stands before it, as in ``token=mean``: one of less than
  4 letters, a word of less than 8 small letters, a number of less than 8 digits, and any word that dltrain's own YAML
  or code has.
- One of less than 8 letters, of small letters only, or of digits only, is masked where it is a whole word.
- Any other value is masked wherever it stands, also as Python, JSON, a shell and an address spell it.

So is the password in an address, ``://user:password@``. Imports nothing else of dltrain's but the names and spellings
of secrets, so that every module may use it.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dltrain.secret_names import is_secret
from dltrain.spelling import is_ordinary, pattern, spellings

MASK = "***"

REFERENCE = re.compile(r"\$\{[^,}]*\}+")  # ${oc.env:NAME} says where a secret lies, not what it is
NAME = r"(?<![\w.\-/])([\w.\-/]++)"  # a whole one only: from each of its letters on would take forever
PAIR = re.compile(rf"""{NAME}['"]?+\s*+[:=]\s*+""")
ADDRESS = re.compile(r"""(://[^\s/?#:@]{0,256}:)(?!\d{1,5}[/?#])([^\s"'<>]{1,512})(?=@)""")
# A value in quotes, or what stands between the brackets, commas and colons of several.
PIECE = re.compile(r"""('(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"|[^\s,:\[\]{}()'"][^,:\[\]{}()'"]*+)(\s*+:)?""", re.DOTALL)

_known: dict[str, re.Pattern[str]] = {}
_ordinary: set[str] = set()
_places: set[str] = set()


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
    if _place(key) in _places and value is not None and "${" not in str(value):
        return MASK
    return hidden(value) if isinstance(value, str) else value


def _place(key: str) -> str:
    """A key without the numbers of a list's items."""
    return ".".join(name for name in key.split(".") if name and not name.isdigit())


def masked_word(word: str) -> str:
    """One word of a command line with what is secret in it masked: ``model.api_key=***``."""
    found, at = "", 0
    for name, begin, end in _secrets_in(word):
        if is_literal(name, _read(word[begin:end])):
            found, at = f"{found}{word[at:begin]}{MASK}", end
    return hidden(found + word[at:])


def _secrets_in(word: str) -> Iterator[tuple[str, int, int]]:
    """The secret names in a word of a command line, and where the value of each begins and ends."""
    key, equals, _ = word.partition("=")
    if equals and is_secret(key):
        yield key, len(key) + 1, len(word)
        return
    at = 0
    while match := PAIR.search(word, at):
        at = match.end()
        if is_secret(match[1]):
            begin, at = at, _end(word, at)
            yield match[1], begin, at


def _end(word: str, at: int) -> int:
    """Where a value ends: at a comma or bracket around it; where that cannot be told, with the word."""
    depth = 0
    while at < len(word):
        letter = word[at]
        if letter in "'\"":
            quoted = PIECE.match(word, at)
            at = quoted.end(1) if quoted else len(word)
            continue
        if depth == 0 and letter in ",)]}":
            return at
        depth += (letter in "([{") - (letter in ")]}")
        at += 2 if letter == "\\" else 1
    return len(word)


def _read(text: str) -> Any:
    """A typed value as YAML would read it."""
    text, plain = text.strip(), {"true": True, "false": False, "null": None}
    if text.lower() in plain:
        return plain[text.lower()]
    return int(text) if re.fullmatch(r"-?\d{1,99}", text) else text.strip("'\"")


def asked_again(content: Any, key: str = "") -> Iterator[str]:
    """The keys of a stored configuration whose values were masked, or a part of them."""
    if isinstance(content, Mapping | list):
        for name, item in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from asked_again(item, f"{key}.{name}" if key else str(name))
    elif isinstance(content, str) and MASK in content:
        yield key


def learn(values: Any, key: str = "", place: str = "") -> None:
    """Know the secrets of a configuration, so that `hidden` finds them.

    Args:
        values: Plain dictionaries, lists and values.
        key: What says that they are secret.
        place: The key at which they stand, if it does not say so itself.
    """
    if isinstance(values, Mapping):
        for name, item in values.items():
            if name != "_target_":
                learn(item, f"{key}.{name}", f"{place}.{name}" if place else "")
    elif isinstance(values, list | tuple):
        for item in values:
            learn(item, key, place)
    elif is_secret(key) and is_literal(key, values):
        _know(str(values))
        _places.update({_place(place)} if place else ())
    for match in ADDRESS.finditer(values) if isinstance(values, str) else ():
        if is_literal("password", match[2]):
            _know(match[2])


def _know(value: str) -> None:
    if is_ordinary(value):
        _ordinary.add(value)
        return
    _known.update({text: pattern(text) for text in spellings(value) if not is_ordinary(text)})


def learn_words(words: list[str]) -> None:
    """Know the secrets on a command line before it is understood."""
    for word in words:
        for name, begin, end in _secrets_in(word):
            text = word[begin:end].strip()
            # A value may be several: each item of a list, of a sweep or of a dictionary is a secret, too.
            items = {text, *(match[1].strip() for match in PIECE.finditer(text) if not match[2])}
            for item in items | {re.sub(r"\\(.)", r"\1", item, flags=re.DOTALL) for item in items}:
                learn(_read(item), name)


def hidden(text: str) -> str:
    """Text with every secret that is known masked, and the passwords in addresses."""
    text = ADDRESS.sub(lambda m: f"{m[1]}{MASK}" if is_literal("password", m[2]) else m[0], text)
    for value in sorted(_known, key=len, reverse=True):
        text = _known[value].sub(MASK, text)
    if _ordinary:
        named = _after_names(frozenset(_ordinary))
        text = named.sub(lambda m: f"{m[1]}{MASK}" if is_secret(m[2]) else m[0], text)
    return text


@functools.lru_cache(1)
def _after_names(values: frozenset[str]) -> re.Pattern[str]:
    """Ordinary values that stand after any name; which of the names are secret is to be seen."""
    found = "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True))
    return re.compile(rf"""({NAME}['"]?+\s*+[:=]\s*+['"]?+)(?:{found})(?![^\W_])""")


def forget() -> None:
    """Know no secrets any more; for a process that runs several commands."""
    for found in (_known, _ordinary, _places):
        found.clear()
