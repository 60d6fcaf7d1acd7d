"""Redaction of secrets: by key name in structures, by pattern in URLs, by value in free text.

In a configuration or JSON, each value under a key such as ``token``, ``password`` or ``api_key`` becomes ``***``,
except for references, booleans, numbers under keys such as ``max_tokens``, and empty or missing values. Keys stay, so
the result is still valid YAML or JSON. An override that contains a secret becomes ``key=***``.

In free text (messages, tracebacks), the values registered by `register_secrets` are replaced. Values that ordinary text
may contain by chance are not registered: values with fewer than 8 characters, and lowercase words or numbers with fewer
than 16.
"""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

MASK = "***"
NO_SECRET = {"", "???", "none", "null", "true", "false", MASK}
COMMON = re.compile(r".{,7}|[a-z_]{,15}|[-+\d.e]{,15}", re.DOTALL)  # values that free text may contain by chance

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")  # finds api and key in apiKey and API_KEY
SPECIAL_TOKEN = re.compile(r"\b(?:pad|eos|bos|unk|sep|cls|mask|start|end) token\b")  # vocabulary entries, not secrets
SECRET_NAME = re.compile(
    r"passw(?:or)?d|passphrase|passcode|credential|\b(?:secrets?|o?auth|authorization|bearer|jwt|pwd|cookies?|token)\b"
    r"|(?:api|access|private|ssh|encryption|signing|session|auth|client|secret) ?(?:keys?|token|secret)\b"
)
SECRET_VARIABLE = re.compile(r"\b(?:keys?|pass|pat|dsn|webhook)\b")

REFERENCE = r"\$\{[^,}]{,256}\}+"  # ${oc.env:NAME} names a secret without containing it
PASSWORD = re.compile(rf"""(://[^\s/?#:@]{{,256}}:)(?!\d{{1,5}}[/?#]|{REFERENCE}@)[^\s"'<>]{{1,512}}(?=@)""")
# key: value within an override. A value in brackets is matched as an empty string.
PAIR = re.compile(
    r"""(?<![\w.\-/])([\w.\-/]++)['"]?\s*+[:=]\s*+"""
    rf"""('(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"|{REFERENCE}(?=\s*+(?:[,\]}}]|$))|[^,\[\]{{}}]*+)"""
)

_registered: set[str] = set()


def is_secret(key: str) -> bool:
    """Return whether a part of a dotted key marks its value as a secret."""
    return bool(SECRET_NAME.search(SPECIAL_TOKEN.sub("", _words(key))))


def is_secret_variable(name: str) -> bool:
    """Return whether the name of an environment variable marks its value as a secret."""
    return name != "PWD" and (is_secret(name) or bool(SECRET_VARIABLE.search(_words(name))))


def _words(name: str) -> str:
    return " ".join(WORD.findall(name)).lower()


def _is_literal(key: str, value: Any) -> bool:
    """Return whether a value under a secret key is a secret itself, not a reference, boolean or number of tokens."""
    text = str(value).strip("'\" ")
    if text.lower() in NO_SECRET or re.fullmatch(REFERENCE, text):
        return False
    return not isinstance(value, int | float) or is_secret(re.sub("token", "", key, flags=re.IGNORECASE))


def mask(value: Any, key: str = "") -> Any:
    """Return the value of a dotted key with each secret replaced by ``***``, also in nested mappings and lists."""
    if isinstance(value, Mapping):
        return {name: item if name == "_target_" else mask(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        items = [mask(item, key) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if is_secret(key) and _is_literal(key, value):
        return MASK
    return redact(value) if isinstance(value, str) else value


def mask_override(text: str) -> str:
    """Redact an override: if it contains a secret, even a nested one as in ``a={password:x}``, return ``key=***``."""
    key, _, value = text.partition("=")
    if is_secret(key):
        secret = _is_literal(key, 0 if value.isdecimal() else value)  # YAML reads digits as a number
    else:
        secret = any(is_secret(k) and not re.fullmatch(REFERENCE, v.strip("'\"")) for k, v in PAIR.findall(value))
    return f"{key}={MASK}" if secret else redact(text)


def register_secrets(value: Any, key: str) -> None:
    """Register the secrets in the value of a dotted key for `redact`."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            register_secrets(item, "" if name == "_target_" else f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for item in value:
            register_secrets(item, key)
    elif is_secret(key) and _is_literal(key, value):
        text = str(value)
        spelled = {text, repr(text)[1:-1], json.dumps(text)[1:-1], quote(text, safe=""), *text.splitlines()}
        _registered.update(item for item in spelled if not COMMON.fullmatch(item))


def register_overrides(texts: list[str]) -> None:
    """Register the secrets on a command line before it is parsed."""
    for text in texts:
        key, _, value = text.partition("=")
        for name, item in [(key, i) for i in value.split(",")] if is_secret(key) else PAIR.findall(value):
            register_secrets(item.strip("'\" "), name)


def redact(text: str) -> str:
    """Return text with the passwords in URLs and all registered secrets replaced by ``***``."""
    text = PASSWORD.sub(rf"\1{MASK}", text)
    for value in sorted(_registered, key=len, reverse=True):
        text = text.replace(value, MASK)
    return text


def clear() -> None:
    """Unregister all secrets."""
    _registered.clear()
