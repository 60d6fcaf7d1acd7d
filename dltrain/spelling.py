"""How a secret stands in text, and which values are too ordinary to be looked for there.

Imports nothing of dltrain's, so that every module may use it.
"""

import functools
import json
import re
from pathlib import Path
from urllib.parse import quote

LEAST = 4  # letters; what is shorter turns up everywhere
ORDINARY = re.compile(r"[a-z]{,7}|[-+\d.,e]{,7}")  # a short word or number
COMMON = re.compile(r"[a-z]+|[-+\d.,e]+|.{,7}", re.DOTALL)  # may be part of something longer by chance


def is_ordinary(value: str) -> bool:
    """Whether a value is too short, or too usual a word, to be masked wherever the same letters stand."""
    if len(value) < LEAST or ORDINARY.fullmatch(value):
        return True
    return bool(re.fullmatch(r"[\w.\-/]+", value)) and value in own_words()


@functools.cache
def own_words() -> frozenset[str]:
    """What dltrain itself writes: the options, keys and values of its YAML, and the words of its code."""
    package = Path(__file__).parent
    yaml = [file for home in (package, package.parent) for file in (home / "conf").rglob("*.yaml")]
    texts = [file.read_text(errors="replace") for file in (*yaml, *package.rglob("*.py"))]
    found = {word for text in texts for form in (r"\w+", r"[\w.\-/]+") for word in re.findall(form, text)}
    return frozenset(found | {file.stem for file in yaml})


def spellings(value: str) -> set[str]:
    """A value as text may have it: as it is, in quotes, escaped, in an address, and each of its lines."""
    escaped = repr(value + "'\"")[1:-4]  # with both kinds of quotes Python escapes the single ones
    found = {value, escaped, escaped.replace("\\'", "'"), value.replace("'", "\\'"), quote(value, safe="")}
    found |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    found.add(value.replace("'", "'\"'\"'"))  # as a shell wants it
    found.add("".join(c for c in value if c.isprintable() or c in "\n\t"))  # as a terminal gets it
    found |= {line.strip() for line in value.splitlines()}
    return found | {text.replace('"', '""') for text in found}  # as a table of CSV has it


def pattern(value: str) -> re.Pattern[str]:
    """Where a value stands in text: anywhere, or, if it may be part of a longer word by chance, as a whole one."""
    text = re.escape(value)
    if COMMON.fullmatch(value):
        before = r"(?<![^\W_])" if value[0].isalnum() else ""
        text = f"{before}{text}" + (r"(?![^\W_])" if value[-1].isalnum() else "")
    return re.compile(text)
