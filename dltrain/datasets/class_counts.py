"""Classes and their examples in words."""

from collections import Counter
from collections.abc import Iterable

MAX_NAMED = 10


def count_classes(labels: Iterable[int], names: Iterable[str]) -> str:
    """Return ``cat 40, dog 12``, and of many classes the first ones and the range of all."""
    counts = Counter(labels)
    each = [(name, counts[number]) for number, name in enumerate(names)]
    line = ", ".join(f"{name} {count:,}" for name, count in each[:MAX_NAMED])
    if len(each) <= MAX_NAMED:
        return line
    sizes = [count for _, count in each]
    return f"{line}, ... ({len(each):,} classes of {min(sizes):,} to {max(sizes):,})"


def shorten_names(names: Iterable[str]) -> str:
    """Return the first names and the number of the others."""
    names = list(names)
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more:,} more" if more > 0 else "")
