"""Flags of the command line as argparse reads them, with its complaints as ours."""

import argparse
import math
from typing import Any, NoReturn

from dltrain.errors import ConfigError, format_error, shorten, suggest

MOST = 2**31 - 1  # of what is counted
DIGITS = 40  # a number of more is larger than any bound; Python refuses to read very long ones
# Flags of Hydra's that dltrain refuses, and why.
REFUSED = {
    "--experimental-rerun": "refused, it runs whatever the file says. The run's command.txt repeats a run.",
    "--resolve": "refused, facts such as ${spec.features} come from the data. A run's config.yaml has them filled in.",
}


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints as ours."""

    def error(self, message: str) -> NoReturn:
        """Say what argparse found wrong."""
        raise ConfigError(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = list(action.choices)
            hint = suggest(str(value), names)
            raise ConfigError(format_error(action.option_strings[-1], f"one of {' '.join(names)}", value, hint))

    def add_showing(self) -> None:
        """Flags that only show something; Hydra answers them itself."""
        for names in (("-h", "--help"), ("--hydra-help",), ("-sc", "--shell-completion")):
            self.add_argument(*names, action="store_true")
        self.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
        self.add_argument("-p", "--package")
        shown = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
        self.add_argument("-i", "--info", nargs="?", const="all", choices=shown)

    def refuse(self, words: list[str]) -> None:
        """Refuse flags that do not exist or would run foreign code.

        Raises:
            ConfigError: With a line for each.
        """
        names = [word.split("=", 1)[0] for word in words]
        known = [flag for action in self._actions for flag in action.option_strings]
        if names:
            raise ConfigError(
                *(f"{n}: {REFUSED.get(n) or f'unknown flag. {suggest(n, known)}'}".strip() for n in names)
            )


def at_least_one(text: str) -> int:
    """A count."""
    return whole(text, 1, MOST)


def above_zero(text: str) -> float:
    """A temperature."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def seed(text: str) -> int:
    """What names random numbers."""
    return whole(text, 0, 2**63 - 1)


def whole(text: str, least: int, most: int) -> int:
    """A whole number between two bounds."""
    number = int(text) if text.isdecimal() and len(text) < DIGITS else -1
    if not least <= number <= most:
        also = f" and at most {most:,}" if text.isdecimal() and number != 0 else ""
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}{also}, got {shorten(text)}")
    return number
