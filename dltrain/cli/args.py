"""Parse a command line: overrides ``group=option key=value``, flags, and names of runs and files, in any order."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from dltrain.cli.verbs import VERBS, Verb
from dltrain.config.groups import is_override
from dltrain.errors import ConfigError, format_error, suggest

ONLY_OVERRIDES = ("train", "summary", "inspect")  # verbs whose positional arguments are all overrides
SWEEP = ("-m", "--multirun")
# Flags of dltrain generate that dltrain predict lacks, most of them for text.
CONTINUATION = ("--length", "--temperature", "--seed", "--prompt", "--top-k", "--top-p", "--beam")
# Flags of Hydra that dltrain rejects, each with the reason.
REJECTED = {
    "--experimental-rerun": "it unpickles a file, which can run any code. To repeat a run, use dltrain rerun.",
    "--resolve": "values such as ${spec.features} depend on the data. The config.yaml of a run contains these values.",
}


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that raises `ConfigError` instead of exiting; the caller prints the help."""

    def __init__(self, prog: str, verb: Verb, **options: str) -> None:
        texts = {"usage": verb.usage, "description": verb.description, **options}
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, formatter_class=formatter, add_help=False, allow_abbrev=False, **texts)  # type: ignore[arg-type]
        self.add_argument("-h", "--help", action="store_true", help="print this help")
        verb.add_flags(self)

    def error(self, message: str) -> NoReturn:
        """Raise `ConfigError` with argparse's message, shortened from ``argument -c/--cfg: ...`` to ``--cfg: ...``."""
        raise ConfigError(re.sub(r"^argument (-\w+/)?", "", message))

    def reject_flags(self, words: Sequence[str], verb: str) -> None:
        """Raise `ConfigError` with one line for each of `words`, the flags that the parser does not know."""
        reasons = dict(REJECTED)
        if verb != "train":
            sweep = "dltrain -m GROUP=A,B KEY=1,2 trains every combination."
            reasons |= dict.fromkeys(SWEEP, f"dltrain {verb} cannot run sweeps. {sweep}")
        if verb == "predict":
            reasons |= dict.fromkeys(CONTINUATION, "dltrain predict does not generate. Use: dltrain generate RUN")
        known = [flag for action in self._actions for flag in action.option_strings]
        problems = []
        for flag in (word.split("=", 1)[0] for word in words):
            reason = reasons.get(flag)
            unknown = f"{flag}: unknown flag. {suggest(flag, known)}".rstrip()
            problems.append(f"{flag}: not supported because {reason}" if reason else unknown)
        if problems:
            raise ConfigError(*problems)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line.

    Returns:
        The verb's flags by name, and ``verb``, ``overrides`` (of groups and keys), ``names`` (of runs, files and
        folders, in order) and ``help``.
    """
    name, words = "train", list(argv)
    if words and words[0] in VERBS:
        name = words.pop(0)
    elif words and words[0].isalpha() and (hint := suggest(words[0], VERBS)):
        raise ConfigError(format_error(words[0], "a verb or KEY=VALUE", words[0], hint))
    verb = VERBS[name]
    parser = Parser(f"dltrain {name}", verb)
    end = words.index("--") if "--" in words else len(words)
    found, rest = parser.parse_known_args(words[:end])
    if late := next((word for word in rest if word in VERBS), None) if name == "train" else None:
        hint = f"Put the verb first: dltrain {late} ..."
        raise ConfigError(format_error(late, "KEY=VALUE or GROUP=OPTION", late, hint))
    parser.reject_flags([word for word in rest if word.startswith("-") and word != "-"], name)
    found.verb = name
    found.overrides = [word for word in rest if name in ONLY_OVERRIDES or is_override(word)]
    found.names = [word for word in rest if word not in found.overrides] + words[end + 1 :]
    minimum, maximum = verb.names
    if not (found.help or minimum <= len(found.names) <= maximum):
        raise ConfigError(format_error(name, verb.usage, " ".join(found.names) or None))
    return found
