"""The words of the configuration: what each may be. A word means the same wherever it stands, so it is said once.

Checked before torch is imported, over every value of the composed configuration.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

from dltrain.errors import nearest, problem

# word -> (kind, range). Kinds: "int", "float", "bool", "str", a tuple of names, or "every" (a span of training).
# A range is an interval as mathematics writes it. A word that is missing here may be anything its constructor takes.
WORDS: dict[str, tuple[str | tuple[str, ...], str]] = {
    "seed": ("int", "[0, 2**63)"),
    "epochs": ("int", "[1, inf)"),
    "max_steps": ("int", "[1, inf)"),
    "accumulate": ("int", "[1, inf)"),
    "log_every": ("every", ""),
    "eval_every": ("every", ""),
    "checkpoint_every": ("every", ""),
    "batch_size": ("int", "[1, inf)"),
    "workers": ("int", "[0, inf)"),
    "window": ("int", "[1, inf)"),
    "horizon": ("int", "[1, inf)"),
    "season": ("int", "[1, inf)"),
    "stride": ("int", "[1, inf)"),
    "kernel": ("int", "[1, inf)"),
    "validation": ("float", "[0, 1)"),
    "test": ("float", "(0, 1)"),
    "hidden": ("int", "[1, inf)"),
    "feedforward": ("int", "[1, inf)"),
    "depth": ("int", "[1, inf)"),
    "heads": ("int", "[1, inf)"),
    "channels": ("int", "[1, inf)"),
    "length": ("int", "[1, inf)"),
    "side": ("int", "[1, inf)"),
    "lr": ("float", "(0, inf)"),
    "momentum": ("float", "[0, 1)"),
    "betas": ("float", "[0, 1)"),
    "alpha": ("float", "[0, 1]"),
    "rho": ("float", "[0, 1]"),
    "eps": ("float", "(0, inf)"),
    "weight_decay": ("float", "[0, inf)"),
    "warmup": ("float", "[0, inf)"),
    "dropout": ("float", "[0, 1)"),
    "l1": ("float", "[0, inf)"),
    "l2": ("float", "[0, inf)"),
    "label_smoothing": ("float", "[0, 1)"),
    "clip_norm": ("float", "[0, inf)"),
    "clip_value": ("float", "[0, inf)"),
    "early_stopping": ("int", "[0, inf)"),
    "average": ("float", "[0, 1)"),
    "precision": (("auto", "fp32", "tf32", "bf16", "fp16"), ""),
    "normalise": (("last", "window", "train"), ""),
    "loss_name": (("mse", "l1", "huber"), ""),
    "tokens": (("characters", "bytes"), ""),
    "pool": (("max", "avg", "none"), ""),
    "padding": (("same", "valid"), ""),
}

SPANS = ("step", "epoch", "minute")


def check(key: str, value: Any) -> str | None:
    """Hold one value against its word; returns the mistake, or None."""
    kind, interval = WORDS.get(key.rsplit(".", 1)[-1], ("", ""))
    if value is None or not kind or (isinstance(value, str) and ("${" in value or value == "???")):
        return None
    if isinstance(value, list | tuple):
        return next((found for item in value if (found := check(key, item))), None)
    if isinstance(value, dict):
        return None
    if isinstance(kind, tuple):
        return None if value in kind else problem(key, f"one of {' '.join(kind)}", value, nearest(str(value), kind))
    if kind == "every":
        return None if span(value) else problem(key, 'a span such as "50 steps", "1 epoch" or "10 minutes"', value)
    if isinstance(value, bool) or not isinstance(value, int if kind == "int" else int | float):
        return None if isinstance(value, str) and kind == "int" else problem(key, words(kind, interval), value)
    return None if inside(value, interval) else problem(key, words(kind, interval), value)


def mistyped(key: str, value: Any, default: Any) -> str | None:
    """Hold the type of an override against that of the value YAML gives; returns the mistake, or None."""
    name = key.rsplit(".", 1)[-1]
    if default is None or (name in WORDS and not WORDS[name][1]):
        return None
    if (isinstance(default, str) and "${" in default) or (isinstance(value, str) and "${" in value):
        return None
    if value is None:
        return problem(key, type_name(default), "null")
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return None
    if isinstance(default, str) and isinstance(value, int | float | bool):
        return None
    same = type(value) is type(default) or (isinstance(default, list) and isinstance(value, int | list))
    if same:
        return None
    kind, interval = WORDS.get(name, ("", ""))
    return problem(key, words(kind, interval) if isinstance(kind, str) and kind else type_name(default), value)


def span(value: Any) -> tuple[float, str] | None:
    """``"2 epochs"`` -> (2, "epoch"); a bare number counts steps; None if it is no span."""
    if isinstance(value, bool):
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value))
    unit = (match[2] or "step").removesuffix("s") if match else ""
    if not match or unit not in SPANS or float(match[1]) <= 0:
        return None
    count = float(match[1])
    return None if unit != "minute" and count != int(count) else (count, unit)


def inside(value: float, interval: str) -> bool:
    """Whether a number lies in an interval such as ``(0, 1]``; NaN lies in none."""
    if not interval:
        return True
    low, high = bounds(interval)
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def bounds(interval: str) -> tuple[float, float]:
    """The two ends of an interval."""
    low, high = (part.strip() for part in interval[1:-1].split(","))
    number = {"inf": math.inf, "2**63": 2.0**63}
    return number.get(low) or float(low), number.get(high) or float(high)


def words(kind: str, interval: str) -> str:
    """An interval in words: ``a number above 0``."""
    name = {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(kind, "text")
    if not interval:
        return name
    low, high = bounds(interval)
    parts = [f"at least {low:g}" if interval[0] == "[" else f"above {low:g}"] if low > -math.inf else []
    if high < 2.0**63:
        parts.append(f"at most {high:g}" if interval[-1] == "]" else f"below {high:g}")
    return " ".join([name, " and ".join(parts)])


def type_name(value: Any) -> str:
    """What a value is, for people."""
    names: Iterable[tuple[type, str]] = (
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        (str, "text"),
        (list, "a list"),
        (dict, "a group of keys"),
    )
    return next(name for kind, name in names if isinstance(value, kind))
