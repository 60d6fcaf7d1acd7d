"""Argument types for argparse: functions that parse a string or raise `argparse.ArgumentTypeError`."""

import argparse
import functools
import math
from collections.abc import Callable

from dltrain.errors import shorten, suggest

MAX_COUNT = 2**31 - 1
MAX_SEED = 2**63 - 1
MAX_DIGITS = 40  # more than any valid number has; int() rejects thousands of digits


def one_of(*names: str) -> Callable[[str], str]:
    """Return a function that accepts only the given names."""

    def parse(text: str) -> str:
        if text not in names:
            hint = suggest(text, names)
            message = f"expected one of {' '.join(names)}, got {shorten(text)}"
            raise argparse.ArgumentTypeError(f"{message}. {hint}" if hint else message)
        return text

    return parse


def _integer(text: str, low: int, high: int) -> int:
    number = int(text) if text.isdecimal() and len(text) < MAX_DIGITS else -1
    if not low <= number <= high:
        bound = f" and at most {high:,}" if text.isdecimal() and number != 0 else ""
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}{bound}, got {shorten(text)}")
    return number


count = functools.partial(_integer, low=1, high=MAX_COUNT)
seed = functools.partial(_integer, low=0, high=MAX_SEED)


def temperature(text: str) -> float:
    """Parse a finite number of at least 0."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number of at least 0, got {shorten(text)}")
    return value


def probability(text: str) -> float:
    """Parse a number above 0 and at most 1."""
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1, got {shorten(text)}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def shape(text: str) -> tuple[int, ...]:
    """Parse the sizes of one example: ``3x32x32`` -> (3, 32, 32)."""
    sizes = [int(size) if size.isdecimal() and len(size) < MAX_DIGITS else 0 for size in text.split("x")]
    if len(sizes) > 4 or not all(0 < size <= MAX_COUNT for size in sizes):
        expected = f"one to four sizes from 1 to {MAX_COUNT:,}, such as 3x32x32, 96x7 or 784"
        raise argparse.ArgumentTypeError(f"expected {expected}, got {shorten(text)}")
    return tuple(sizes)
