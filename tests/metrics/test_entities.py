"""Scores of entities in the schemes BIO, BIOES and BILOU."""

import pytest

from dltrain.metrics.entities import score_entities

# Two adjacent one-word entities, and a three-word entity whose last word is not predicted.
TRUE = {
    "BIO": "B-PER B-PER O B-LOC I-LOC I-LOC",
    "BIOES": "S-PER S-PER O B-LOC I-LOC E-LOC",
    "BILOU": "U-PER U-PER O B-LOC I-LOC L-LOC",
}
FOUND = {
    "BIO": "B-PER B-PER O B-LOC I-LOC O",
    "BIOES": "S-PER S-PER O B-LOC E-LOC O",
    "BILOU": "U-PER U-PER O B-LOC L-LOC O",
}


@pytest.mark.parametrize("scheme", TRUE)
def test_every_scheme_gives_the_same_scores(scheme: str) -> None:
    pytest.importorskip("seqeval")
    scores, kinds = score_entities([FOUND[scheme].split()], [TRUE[scheme].split()])
    assert scores == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3})
    assert kinds["PER"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2}
    assert kinds["LOC"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
