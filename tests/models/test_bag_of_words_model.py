"""Bag of words, compared with scikit-learn's TfidfVectorizer on the texts of a file."""

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from dltrain.data.loader import Batches
from dltrain.datasets.text_table import TextTable
from dltrain.datasets.words import split_words
from dltrain.models.bag_of_words import BagOfWords

WORDS = ["the", "a", "good", "bad", "slow", "film", "plot", ",", ".", "it's"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice([*WORDS, f"rare{row}"], 1 + row % 9)) for row in range(90)] + ["unheard of"]


@pytest.fixture(scope="module")
def data(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> TextTable:
    path = tmp_path_factory.mktemp("texts") / "a.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{'xy'[row % 2]}\n" for row, text in enumerate(texts)))
    return TextTable(str(path), text="text")


def test_features_equal_scikit_learn_with_and_without_padding(data: TextTable, texts: list[str]) -> None:
    train = [texts[row] for row in data.parts["train"].tolist()]
    words = data.words.words[2:]
    peer = TfidfVectorizer(tokenizer=lambda text: split_words(text, True), token_pattern=None, vocabulary=words)
    peer.fit(train)
    model = BagOfWords(data.spec.tokens.size, 2, data.spec.idf)
    np.testing.assert_allclose(model.idf[2:], peer.idf_, rtol=1e-6)
    splits, found, expected = data.load(), [], []
    for source in (splits.val, splits.test):
        for batch in Batches(source, 7):
            found.append(model.features(batch["inputs"], batch["lengths"]))
            rows = [row[:length] for row, length in zip(batch["inputs"], batch["lengths"].tolist(), strict=True)]
            torch.testing.assert_close(torch.cat([model.features(row[None]) for row in rows]), found[-1])
            expected.append(peer.transform([data.spec.tokens.decode(row.tolist()) for row in rows]).toarray())
    np.testing.assert_allclose(torch.cat(found)[:, 2:], np.concatenate(expected), atol=1e-6)
    assert not torch.cat(found)[:, :2].any()


def test_the_output_for_a_text_without_known_words_is_the_bias(data: TextTable) -> None:
    model = BagOfWords(data.spec.tokens.size, 2, data.spec.idf)
    tokens = torch.tensor([data.spec.tokens.encode("unheard"), [0]])
    torch.testing.assert_close(model(tokens, torch.tensor([1, 0])), model.head.bias.expand(2, 2))


def test_the_inverse_document_frequencies_are_restored_from_the_fitted_state(data: TextTable) -> None:
    again = TextTable("gone.tsv", fitted=data.fit())
    assert again.spec.idf is not None and torch.equal(again.spec.idf, data.spec.idf)
