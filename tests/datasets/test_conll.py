"""Sentences with tags: columns, splits, word pieces, and errors with line numbers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets.conll import NO_TAG, Conll
from dltrain.datasets.conll_file import read_words
from dltrain.errors import ConfigError

SENTENCES = (
    (("U.N.", "B-ORG"), ("official", "O"), ("Ekeus", "B-PER"), ("heads", "O"), ("for", "O"), ("Baghdad", "B-LOC")),
    (("Rome", "B-LOC"), ("sleeps", "O"), (".", "O")),
    (("Ada", "B-PER"), ("Lovelace", "I-PER"), ("left", "O")),
)


def write(folder: Path, count: int = 30, middle: str = " NN ") -> str:
    lines = ["-DOCSTART- -X- O", ""]
    for number in range(count):
        lines += [f"{word}{middle}{tag}" for word, tag in SENTENCES[number % 3]] + [""]
    (folder / "a.conll").write_text("\n".join(lines))
    return str(folder / "a.conll")


def sentences_of(data: Conll) -> Iterator[list[tuple[str, str]]]:
    """Yield the (word, tag) pairs of each sentence in all splits, decoded from batches."""
    splits = data.load()
    for source in (splits.train, splits.val, splits.test):
        assert source is not None and data.tokens.decode is not None
        for batch in Batches(source, 4):
            for tokens, targets, starts in zip(batch["inputs"], batch["targets"], batch["starts"], strict=True):
                assert torch.equal(starts, targets != NO_TAG)
                yield [
                    (data.tokens.decode([int(token)]), data.tags[int(target)])
                    for token, target in zip(tokens, targets, strict=True)
                    if target != NO_TAG
                ]


@pytest.mark.parametrize("middle", [" NN ", "\tNN\t"])
def test_the_splits_contain_all_words_and_tags_of_the_file(middle: str, tmp_path: Path) -> None:
    data = Conll(write(tmp_path, middle=middle), validation=0.2, test=0.2)
    assert data.spec.tag_names == ("B-LOC", "B-ORG", "B-PER", "I-PER", "O") and data.spec.tags == 5
    expected = sorted([(word.lower(), tag) for word, tag in sentence] for sentence in SENTENCES)
    found = sorted(sentences_of(data))
    assert len(found) == 30 and [found[number] for number in (0, 10, 20)] == expected
    assert [len(part) for part in data.parts] == [18, 6, 6]


def test_inputs_are_read_with_the_fitted_state_and_without_the_training_file(tmp_path: Path) -> None:
    data = Conll(write(tmp_path))
    again = Conll("moved.conll", fitted=data.fit())
    (given,) = again.inputs(InputFiles(text="Ada sleeps unheard"))
    assert given.names == [{"input": "--text", "words": ["Ada", "sleeps", "unheard"]}]
    assert given.rows["tokens"].values.tolist() == [data.words.number(word) for word in ("ada", "sleeps", "?")]
    (tmp_path / "new.txt").write_text("Rome NN\nsleeps NN\n\nAda NN\n")
    (given,) = again.inputs(InputFiles((str(tmp_path / "new.txt"),)))
    assert [(name["line"], name["words"]) for name in given.names] == [(1, ["Rome", "sleeps"]), (4, ["Ada"])]


def test_the_first_piece_of_a_word_has_the_tag_of_the_word(tmp_path: Path) -> None:
    vocabularies = pytest.importorskip("tokenizers")
    words = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "Love", "##lace", "Ada", "left"])}
    tokenizer = vocabularies.Tokenizer(vocabularies.models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = vocabularies.pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    data = Conll(write(tmp_path), tokenizer=str(tmp_path / "tokenizer.json"), max_length=6)
    rows = next(iter(Batches(data.load().train, 30)))
    (row, *_) = (n for n, tokens in enumerate(rows["inputs"].tolist()) if tokens[:6] == [2, 6, 4, 5, 7, 3])
    tags = [data.tags[tag] if tag != NO_TAG else "" for tag in rows["targets"][row].tolist()[:6]]
    assert tags == ["", "B-PER", "I-PER", "", "O", ""]
    assert rows["lengths"].max() == 6  # longer sentences are truncated, but still end with [SEP]
    assert all(tokens[length - 1] == 3 for tokens, length in zip(rows["inputs"], rows["lengths"], strict=True))
    assert "10 sentences truncated to 4 tokens (data.max_length)" in data.describe()
    again = Conll("moved.conll", tokenizer="moved.json", max_length=6, fitted=data.fit())
    assert again.tokens.size == 8


def test_the_token_numbers_of_a_tokenizer_may_have_gaps(tmp_path: Path) -> None:
    vocabularies = pytest.importorskip("tokenizers")
    tokenizer = vocabularies.Tokenizer(vocabularies.models.WordLevel({"[UNK]": 0, "left": 9}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    data = Conll(write(tmp_path), tokenizer=str(tmp_path / "tokenizer.json"))
    assert data.tokens.size == 10 and data.encode(["left"])[0] == [9]


def test_no_token_is_counted_as_unknown_if_the_tokenizer_has_no_unknown_token(tmp_path: Path) -> None:
    vocabularies = pytest.importorskip("tokenizers")
    letters = sorted({letter for sentence in SENTENCES for word, _ in sentence for letter in word})
    numbers = {letter: number for number, letter in enumerate(letters)}
    tokenizer = vocabularies.Tokenizer(vocabularies.models.BPE(numbers, []))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    data = Conll(write(tmp_path), tokenizer=str(tmp_path / "tokenizer.json"))
    assert any("; 0.0% of the tokens of the validation and test splits are unknown" in line for line in data.describe())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a B-X\nb O\n\nc\n",
            r"^data.path: expected 2 columns in line 4 of .*, as in its first line with a word, got 1",
        ),
        ("a O\n\nb B-X\n", r"^data.path: expected at least 3 sentences in .*, separated by empty lines, got 2"),
        (
            "a\n\nb\n\nc\n",
            r"^data.tag_column: expected a column other than the words .* a file with 1 column$",
        ),
        ("a\nb\n\nc d\n", r"^data.path: expected 1 column in line 4 of .*, got 2$"),
        ("a O\n\nb O\n\nc O\n", r"^data.tag_column: expected a column with at least two different tags"),
    ],
)
def test_the_error_for_an_unsuitable_file_names_the_key(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(content)
    with pytest.raises(ConfigError, match=message):
        Conll(str(tmp_path / "a.conll"))


@pytest.mark.parametrize("delimiter", [" ", "\t"])
def test_words_may_contain_unicode_spaces_and_line_separators(delimiter: str) -> None:
    words = ["\u2028", "a\x85b", "\xa0", "c"]
    content = "\r\n".join(f"{word}{delimiter}O" for word in words).encode()
    assert read_words(content, "a.conll", 0) == [(1, words)]


def test_a_column_that_does_not_exist_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^data.tag_column: expected a column from -3 to 2, because line 3 of .* has 3 columns"
    ):
        Conll(write(tmp_path), tag_column=3)
    (tmp_path / "b.conll").write_text("a\n\nb\n\nc\n")
    with pytest.raises(ConfigError, match=r"from -1 to 0, because line 1 of .* has 1 column, got 1$"):
        Conll(str(tmp_path / "b.conll"), tag_column=1)
