"""ROUGE of summaries, computed by rouge-score."""

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

PACKAGE = "rouge_score"
NAMES = ("rouge1", "rouge2", "rougeL")


def is_available() -> bool:
    """Return whether rouge-score is installed."""
    return find_spec(PACKAGE) is not None


def score_summaries(
    found: Sequence[str], references: Sequence[str], names: Sequence[str] = NAMES
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the mean F1 score of the summaries by metric, from 0 to 100, and how each metric was computed.

    Args:
        found: Summaries, at least one.
        references: Reference of each summary.
        names: ``rouge1`` counts common words, ``rouge2`` common bigrams, and ``rougeL`` the words of the longest common
            subsequence.

    Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries".
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(names), use_stemmer=True)
    scores = [scorer.score(reference, text) for text, reference in zip(found, references, strict=True)]
    means = {name: 100 * sum(score[name].fmeasure for score in scores) / len(scores) for name in names}
    definition = f"mean F1 in percent, words stemmed, rouge-score {version('rouge-score')}"
    return means, dict.fromkeys(names, definition)
