"""Format numbers, rates and durations, and match terminal control codes."""

import math
import re

CONTROL_CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


def format_duration(seconds: float) -> str:
    """Format a duration in seconds: ``4.2s``, ``1m 05s``, ``2h 03m``, ``3d 04h``; ``?`` if negative or not finite."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    rounded = round(seconds)
    for unit, size, subunit, subsize in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if rounded >= size:
            return f"{rounded // size}{unit} {rounded % size // subsize:02d}{subunit}"
    return f"{rounded}s"


def format_number(number: float | None) -> str:
    """Format a number with up to four significant digits, None as an empty string."""
    return "" if number is None else f"{number:.4g}"


def format_rate(per_second: float) -> str:
    """Format a rate per second as an integer or, below 100, with up to three significant digits: ``0.53/s``."""
    return f"{per_second:,.0f}/s" if per_second >= 100 else f"{per_second:.3g}/s"
