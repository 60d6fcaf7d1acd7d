"""Which names say that what they stand for is a secret: those of keys, and those of environment variables.

Imports nothing of dltrain's, so that every module may use it.
"""

import itertools
import re

NAMES = {"token", "secret", "secrets", "auth", "oauth", "authorization", "bearer", "jwt", "pwd", "cookie", "cookies"}
PARTS = ("password", "passwd", "passphrase", "passcode", "apikey", "credential")  # dbpassword, too
KEYS = {"api", "access", "private", "ssh", "encryption", "signing", "session"}  # before "key" or "keys"
KINDS = (*KEYS, "auth", "client", "secret")
JOINED = {f"{kind}{name}" for kind in KINDS for name in ("key", "keys", "token", "secret")}  # written as one word
MARKS = {"pad", "eos", "bos", "unk", "sep", "cls", "mask", "start", "end"}  # before "token": part of a vocabulary
FOLDERS = ("PWD", "OLDPWD")  # of a shell, no passwords
VARIABLES = {"key", "keys", "pass", "pat", "dsn", "webhook"}  # of the environment: OPENAI_KEY

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
VARIABLE = re.compile(r"oc\.env:\s*([\w.\-]+)")


def words_of(name: str) -> list[str]:
    """The words that a name is made of, in small letters."""
    return [word.lower() for word in WORD.findall(name)]


def is_secret(key: str) -> bool:
    """Whether the name of a key says that its value is a secret; ``tokens``, ``pad`` and ``author`` do not."""
    words = words_of(key)
    for before, word in itertools.pairwise(["", *words]):
        if word in JOINED or any(part in word for part in PARTS):
            return True
        if word in NAMES and not (word == "token" and before in MARKS):
            return True
        if before in KEYS and word in ("key", "keys"):
            return True
    return False


def is_secret_variable(name: str) -> bool:
    """Whether the name of an environment variable says so; more of them do than of keys."""
    return name not in FOLDERS and (is_secret(name) or bool(VARIABLES.intersection(words_of(name))))


def refers_to_secret(written: str) -> bool:
    """Whether an interpolation, as it is written, names a secret: ``${oc.env:HF_TOKEN}``."""
    return is_secret(VARIABLE.sub("", written)) or any(map(is_secret_variable, VARIABLE.findall(written)))
