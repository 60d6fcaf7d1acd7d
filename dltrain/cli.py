"""The entry: which verb, which flags. Never imports torch; a verb does when it needs it."""

import argparse
import importlib
import platform
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from typing import NoReturn

from dltrain.compose import conf_dir
from dltrain.errors import ConfigError, nearest

STARTED = time.perf_counter()

# verb -> what it is; each is a module of dltrain.verbs, imported when called.
VERBS = {
    "train": "train, evaluate and keep a run (the default)",
    "summary": "layers, parameters, multiply-adds and memory of a model; trains nothing",
}
# Flags that only show something; Hydra answers them itself.
HYDRA_FLAGS = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--resolve", "--package", "-p", "--info", "-i"}
HYDRA_FLAGS |= {"--shell-completion", "-sc"}


@dataclass(frozen=True)
class Command:
    """A command line, taken apart.

    Args:
        verb: What to do.
        overrides: ``group=option`` and ``key=value``.
        multirun: Whether it is a sweep.
        config_dirs: Folders of the user's own YAML groups.
        rest: Flags that the verb reads itself.
    """

    verb: str
    overrides: list[str]
    multirun: bool
    config_dirs: tuple[str, ...]
    rest: list[str]


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 failed, 2 wrong usage, 3 diverged, 4 out of memory, 130 Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if "--version" in argv:
            print(version())
            return 0
        command = read(argv)
        if any(word.split("=")[0] in HYDRA_FLAGS for word in argv) and command.verb == "train":
            return show(argv, command)
        return importlib.import_module(f"dltrain.verbs.{command.verb}").main(command, STARTED)
    except ConfigError as error:
        for line in error.problems:
            print(f"dltrain: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def read(argv: list[str]) -> Command:
    """Take a command line apart.

    Raises:
        ConfigError: For flags that do not exist, or that dltrain refuses.
    """
    verb = argv[0] if argv and argv[0] in VERBS else "train"
    words = argv[1:] if argv and argv[0] in VERBS else argv
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-r", "--run", action="store_true")
    parser.add_argument("-cd", "--config-dir", action="append", default=[])
    known, rest = parser.parse_known_args(words)
    overrides = [word for word in rest if not word.startswith("-") and flagless(word, rest)]
    flags = [word for word in rest if word not in overrides]
    if verb == "train":
        refuse(flags)
    return Command(verb, overrides, known.multirun, tuple(known.config_dir), flags)


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints as ours."""

    def error(self, message: str) -> NoReturn:
        """Say what argparse found wrong."""
        raise ConfigError(message)


def flagless(word: str, words: list[str]) -> bool:
    """Whether a word stands by itself, not as the value of the flag before it."""
    at = words.index(word)
    before = words[at - 1] if at else ""
    return "=" in word or word.startswith("~") or not before.startswith("-") or before in ("-h", "--help", "--resolve")


def refuse(flags: list[str]) -> None:
    """Refuse flags that do not exist or would run foreign code.

    Raises:
        ConfigError: With a line for each.
    """
    known = [*HYDRA_FLAGS, "--multirun", "--config-dir", "--version"]
    names = [word.split("=")[0] for word in flags if word.startswith("-")]
    problems = [f"{name}: unknown flag. {nearest(name, known)}".strip() for name in names if name not in HYDRA_FLAGS]
    if "--experimental-rerun" in names:
        problems = ["--experimental-rerun: refused, it runs whatever the file says. Use the run's command.txt instead."]
    if problems:
        raise ConfigError(*problems)


def show(argv: list[str], command: Command) -> int:
    """Let Hydra answer ``--help``, ``--cfg``, ``--info`` and completion; mistakes are ours to explain."""
    import hydra
    from omegaconf import DictConfig

    from dltrain.compose import expand

    if not any(word.startswith(("-sc", "--shell-completion")) for word in argv):
        if len(expand(command.overrides, command.config_dirs, sweep=command.multirun)) > 1:
            raise ConfigError("--cfg: expected one job, got a sweep. Give each key one value.")

    def nothing(config: DictConfig) -> None:
        """Hydra wants a function to decorate; these flags never call it."""

    sys.argv = ["dltrain", *(word for word in argv if word not in ("train", "-m", "--multirun"))]
    hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(nothing)()
    return 0


def version() -> str:
    """The versions of dltrain and of what decides how it behaves."""
    names = ("dltrain", "torch", "hydra-core")
    found = {name: metadata.version(name) for name in names}
    return f"dltrain {found['dltrain']} (torch {found['torch']}, hydra {found['hydra-core']}, Python {platform.python_version()})"


if __name__ == "__main__":
    sys.exit(main())
