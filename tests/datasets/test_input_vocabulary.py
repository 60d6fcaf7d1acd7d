"""Subwords that are fitted to the training texts of tables, pairs, tagged sentences, questions and passages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dltrain.datasets.conll import Conll
from dltrain.datasets.input_vocabulary import VocabularySettings, state_of
from dltrain.datasets.sentence_pairs import SentencePairs
from dltrain.datasets.squad import Squad
from dltrain.datasets.text_pairs import TextPairs
from dltrain.datasets.text_table import TextTable
from dltrain.datasets.words import BEGIN, END, MASK, MORE_SPECIAL, PAD, UNKNOWN
from dltrain.errors import ConfigError

pytest.importorskip("tokenizers")

BOOK = "The old man saw the sea. He went home.\n\nThe ship sank. It was late.\n\n" * 9
# The class, its arguments, and a text whose characters all occur in the training texts.
DATA: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "text_table": (TextTable, {"column": "kind", "special_tokens": True}, "The slow film , liked."),
    "text_pairs": (TextPairs, {"column": "kind"}, "a funny film and bad"),
    "conll": (Conll, {}, "Ada Lovelace sleeps"),
    "squad": (Squad, {"max_length": 60, "max_question": 20, "overlap": 8}, "Where does the sea rise?"),
    "sentence_pairs": (SentencePairs, {"max_length": 24}, "The ship was home."),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "bpe") for name in DATA),
        ("text_table", "wordpiece"),
        ("squad", "wordpiece"),
        *(
            pytest.param(name, "wordpiece", marks=pytest.mark.slow)
            for name in ("text_pairs", "conll", "sentence_pairs")
        ),
    ],
)
def test_subwords_fitted_to_the_training_texts_are_restored_without_the_file(
    name: str, kind: str, own_files: dict[str, Path], tmp_path: Path
) -> None:
    data_set, settings, text = DATA[name]
    (tmp_path / "book.txt").write_text(BOOK)
    path = str(own_files.get(name, tmp_path / "book.txt"))
    data = data_set(path, tokens=kind, max_words=300, **settings)
    tokens = data.spec.tokens
    assert (tokens.pad, tokens.unknown) == (PAD, UNKNOWN)
    special = (None, None, None) if name == "conll" else (BEGIN, END, MASK)
    assert (tokens.begin, tokens.end, tokens.mask) == special
    assert tokens.decode(tokens.encode(text)).replace(" ", "") == text.lower().replace(" ", "")
    assert UNKNOWN not in tokens.encode(text) and len(data.load().train) > 0
    again = data_set("moved", tokens=kind, max_words=300, **settings, fitted=data.fit())
    assert again.spec.tokens.size == tokens.size and again.spec.tokens.encode(text) == tokens.encode(text)
    assert data_set(path, tokens=kind, max_words=300, **settings).fit()["tokenizer"] == data.fit()["tokenizer"]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_the_mask_is_the_only_special_token_that_is_recognized_in_a_text(kind: str) -> None:
    settings = VocabularySettings(kind, None, True, 1, 300, MORE_SPECIAL)
    vocabulary = settings.fit(["The End of a <mask> and <end>"] * 3)
    encoded = vocabulary.encode("a <mask><mask> <end>")
    assert encoded.count(MASK) == 2 and END not in encoded
    assert vocabulary.decode(encoded).replace(" ", "") == "a<mask><mask><end>"
    plain = VocabularySettings(kind, None, True, 1, 300, MORE_SPECIAL[:2])
    assert plain.fit(["a <mask>"] * 3).tokens.mask is None
    again = settings.restore(state_of(vocabulary))
    assert again.encode("a <mask><mask> <end>") == encoded


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_spans_locate_the_words_in_the_text(kind: str) -> None:
    text = "Ada  saw Zoë’s cat, 東京!"
    vocabulary = VocabularySettings(kind, None, True, 1, 999).fit([text] * 3)
    tokens, spans = vocabulary.encode_spans(text)
    words = {text[start:stop] for start, stop in spans}
    assert len(tokens) == len(spans) and {"Ada", "saw", "cat"} <= words and not any(map(str.isspace, "".join(words)))


def test_an_unknown_kind_of_tokens_is_rejected(own_files: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"^data.tokens: expected one of words, bpe, wordpiece, got characters"):
        Conll(str(own_files["conll"]), tokens="characters")
