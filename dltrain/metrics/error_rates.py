"""Character and word error rates of transcripts, computed by jiwer."""

from collections.abc import Sequence
from importlib.util import find_spec

PACKAGE = "jiwer"


def is_available() -> bool:
    """Return whether jiwer is installed."""
    return find_spec(PACKAGE) is not None


def error_rates(references: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    """Return ``cer`` and ``wer``: insertions, deletions and substitutions per character or word of all references.

    Args:
        references: At least one transcript; none is empty.
        found: Predicted transcript for each reference; a transcript may be empty.

    Source: Levenshtein 1966 (the distance).
    """
    import jiwer

    rates = {"cer": jiwer.cer, "wer": jiwer.wer}
    return {name: float(rate(list(references), list(found))) for name, rate in rates.items()}
