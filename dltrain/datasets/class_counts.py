"""Format class names and numbers of examples for messages."""

from collections import Counter
from collections.abc import Iterable

MAX_NAMED = 10


def format_class_counts(labels: Iterable[int], names: Iterable[str]) -> str:
    """Return text such as ``cat (40), dog (12)``; if there are many classes, the first ones and the range of counts."""
    counts = Counter(labels)
    each = [(name, counts[number]) for number, name in enumerate(names)]
    line = ", ".join(f"{name} ({count:,})" for name, count in each[:MAX_NAMED])
    if len(each) <= MAX_NAMED:
        return line
    sizes = [count for _, count in each]
    return f"{line}, ... ({len(each):,} classes of {min(sizes):,} to {max(sizes):,} examples)"


def shorten_names(names: Iterable[str]) -> str:
    """Return the first `MAX_NAMED` names and the number of further names."""
    names = list(names)
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more:,} more" if more > 0 else "")
