"""Exact match and F1 score of answers, compared with values computed by hand from the official definition."""

import pytest

from dltrain.metrics.answers import exact_match, normalize, word_f1


def test_case_punctuation_articles_and_spaces_are_ignored() -> None:
    assert normalize("  The  U.S. and an  Apple!") == "us and apple"
    assert exact_match("the Denver Broncos.", ["Broncos", "Denver Broncos"]) == 1.0
    assert exact_match("Denver", ["Broncos", "Denver Broncos"]) == 0.0


def test_the_f1_score_is_the_largest_over_the_correct_answers() -> None:
    # With the second answer, the precision is 2/3 and the recall 2/2.
    assert word_f1("in Santa Clara", ["Levi's Stadium", "Santa Clara"]) == pytest.approx(0.8)
    assert word_f1("blue", ["red"]) == 0.0
    assert word_f1("a a b b", ["b b b"]) == pytest.approx(2 * 2 / (2 + 3))  # articles are removed
