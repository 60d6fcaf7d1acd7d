"""Formatting of numbers, rates and durations, and the pattern of terminal control codes."""

import math
import re

CONTROL_CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


def format_duration(seconds: float) -> str:
    """Format seconds for people: ``4.2s``, ``1m 05s``, ``2h 03m``, ``3d 04h``; ``?`` if negative or not finite."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for unit, size, part, below in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // below:02d}{part}"
    return f"{whole}s"


def format_number(number: float | None) -> str:
    """Format a number with four significant digits, None as an empty string."""
    return "" if number is None else f"{number:.4g}"


def format_rate(per_second: float) -> str:
    """Format a rate per second with at least three significant digits: ``812/s``, ``0.53/s``."""
    return f"{per_second:,.0f}/s" if per_second >= 100 else f"{per_second:.3g}/s"
