"""Flags that Hydra handles: ``--cfg``, ``--package``, ``--info``, ``--hydra-help`` and ``--shell-completion``."""

import argparse
import os
import sys
from collections.abc import Mapping

import hydra
from omegaconf import DictConfig

from dltrain.cli.verbs import VERBS
from dltrain.config.compose import expand, session
from dltrain.config.composer import search_path
from dltrain.config.groups import conf_dir
from dltrain.config.overrides import parse_override
from dltrain.errors import ConfigError, format_error

SHELLS = ("bash", "fish", "zsh")


def show(arguments: argparse.Namespace, flags: Mapping[str, str | bool]) -> int:
    """Check the overrides, then let Hydra handle `flags`, which only print something."""
    if "package" in flags and "cfg" not in flags:
        raise ConfigError("--package: not supported without --cfg")
    words = [f"--{name.replace('_', '-')}" for name in flags]
    overrides, config_dirs = arguments.overrides, tuple(arguments.config_dir)
    if arguments.shell_completion:
        _prepare_completion(overrides)
    elif overrides or config_dirs:
        jobs = expand(overrides, config_dirs, sweep=arguments.multirun)
        if len(jobs) > 1:
            raise ConfigError(f"{words[0]}: not supported for several jobs. Give each key one value.")
        with session(config_dirs, arguments.multirun) as composer:
            if rejected := composer.rejected(map(parse_override, jobs[0].overrides)):
                raise ConfigError(*map(str, rejected.values()))
        overrides = [*jobs[0].overrides, *search_path(config_dirs)]

    def nothing(config: DictConfig) -> None:
        """Do nothing: Hydra needs a function to decorate, but these flags only print."""

    values = [word if value is True else f"{word}={value}" for word, value in zip(words, flags.values(), strict=True)]
    sys.argv = ["dltrain", *values, *overrides]
    try:
        hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(nothing)()
    except SystemExit as stop:
        return 2 if stop.code else 0
    return 0


def _prepare_completion(words: list[str]) -> None:
    """Print the verbs that complete the first word, and reduce ``COMP_LINE`` to the words that Hydra can complete."""
    action, _, shell = words[0].partition("=") if len(words) == 1 else ("", "", "")
    if action not in ("install", "uninstall", "query") or shell not in SHELLS:
        expected = "install=SHELL, where SHELL is bash, fish or zsh"
        raise ConfigError(format_error("--shell-completion", expected, " ".join(words)))
    line = os.environ.get("COMP_LINE", "dltrain ").split(" ")
    # Overrides of `hydra` are removed because `hydra.searchpath` imports the packages that it names.
    line = [word for word in line[:-1] if not word.lstrip("+~").startswith("hydra")] + line[-1:]
    if action == "query" and len(line) == 2:
        for verb in filter(lambda verb: verb.startswith(line[1]), VERBS):
            print(verb)
    if len(line) > 2 and line[1] in VERBS:
        line = [line[0], *(word for word in line[2:-1] if "=" in word or word.startswith("-")), *line[2:][-1:]]
    os.environ["COMP_LINE"] = " ".join(line)
