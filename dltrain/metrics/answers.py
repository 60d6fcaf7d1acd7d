"""Exact match and F1 score of answers to questions, as SQuAD defines them."""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> str:
    """Return an answer in lower case without punctuation, articles and repeated spaces."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def exact_match(found: str, answers: Sequence[str]) -> float:
    """Return 1 if the predicted answer equals a correct answer after normalization, otherwise 0."""
    return float(normalize(found) in map(normalize, answers))


def word_f1(found: str, answers: Sequence[str]) -> float:
    """Return the highest F1 score between the words of the predicted answer and of a correct answer, from 0 to 1.

    Source: Rajpurkar et al. 2016, "SQuAD", section 6.1.
    """
    return max(_f1(normalize(found).split(), normalize(answer).split()) for answer in answers)


def _f1(found: list[str], true: list[str]) -> float:
    common = (Counter(found) & Counter(true)).total()
    return 2 * common / (len(found) + len(true)) if common else 0.0
