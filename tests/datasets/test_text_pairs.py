"""Pairs of texts: tokens and segments, columns, truncation, inputs to predict and bad rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets.text_encoder import PairEncoder
from dltrain.datasets.text_pairs import TextPairs
from dltrain.datasets.words import BEGIN, END, MORE_SPECIAL, Words
from dltrain.errors import ConfigError

ROWS = [(f"a man plays number {n}", f"nobody plays a song {n % 3}", ("no", "yes")[n % 2]) for n in range(40)]


def write(folder: Path, rows: list[tuple[str, str, str]] = ROWS, name: str = "a.tsv") -> str:
    if name.endswith(".jsonl"):
        lines = [json.dumps(dict(zip(("premise", "hypothesis", "label"), row, strict=True))) for row in rows]
    else:
        lines = ["premise\thypothesis\tlabel", *map("\t".join, rows)]
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


@pytest.mark.parametrize("name", ["a.tsv", "a.jsonl"])
def test_each_text_of_a_pair_ends_with_an_end_token_and_the_second_text_has_segment_1(
    tmp_path: Path, name: str
) -> None:
    data = TextPairs(write(tmp_path, name=name), min_count=1)
    splits = data.load()
    assert data.names == ("premise", "hypothesis") and data.spec.class_names == ("no", "yes")
    assert splits.val is not None and [len(splits.train), len(splits.val), len(splits.test)] == [28, 6, 6]
    seen = dict[str, tuple[str, str]]()
    for source in (splits.train, splits.val, splits.test):
        for batch in Batches(source, 8):
            assert not batch["segments"][batch["inputs"] == 0].any()
            rows = zip(*(batch[field].tolist() for field in ("inputs", "segments", "lengths", "targets")), strict=True)
            for tokens, segments, length, target in rows:
                end = tokens.index(END)
                assert tokens[0] == BEGIN and tokens[length - 1] == END and not any(tokens[length:])
                assert segments[:length] == [0] * (end + 1) + [1] * (length - end - 1)
                first, second = (data.words.decode(part) for part in (tokens[1:end], tokens[end + 1 : length - 1]))
                seen[first] = (second, ("no", "yes")[target])
    known = {first: (second, label) for first, second, label in ROWS}
    trained = [ROWS[row] for row in data.parts[0].tolist()]
    assert all(seen[first] == known[first] for first, _, _ in trained) and len(trained) == 28


def test_a_long_pair_is_truncated_at_the_end_of_its_longer_text_first() -> None:
    words = Words([chr(97 + n) for n in range(26)], special=MORE_SPECIAL)
    encoder = PairEncoder(words.tokens, 11)
    for first, second, kept in (
        ("abcdefghij", "xyz", ("abcde", "xyz")),
        ("abc", "qrstuvwxyz", ("abc", "qrstu")),
        ("abcdefghij", "qrstuvwxyz", ("abcd", "qrst")),
        ("abcd", "wxyz", ("abcd", "wxyz")),
    ):
        rows = encoder.rows([(" ".join(first), " ".join(second))])
        tokens = words.decode(rows["tokens"].values.tolist()).split("<end>")
        assert [part.replace(" ", "").removeprefix("<begin>") for part in tokens] == [*kept, ""]


def test_pairs_to_predict_are_read_without_the_training_data(tmp_path: Path) -> None:
    data = TextPairs(write(tmp_path), min_count=1)
    again = TextPairs("moved.tsv", fitted=data.fit())
    assert again.spec.shape == data.spec.shape and again.spec.class_names == data.spec.class_names
    new = tmp_path / "new.tsv"
    new.write_text("hypothesis\tpremise\nnobody plays\ta man plays\n")
    (found,) = again.inputs(InputFiles((str(new),)))
    tokens = found.rows["tokens"].values.tolist()  # type: ignore[union-attr]
    assert data.words.decode(tokens) == "<begin> a man plays <end> nobody plays <end>"
    assert found.names == [{"input": str(new), "line": 2}]
    assert len(TextPairs(write(tmp_path), fitted=data.fit()).evaluation()) == 40
    with pytest.raises(ConfigError, match=r"^data.path: expected the column label in .*, got the columns hypoth"):
        TextPairs(str(new), fitted=data.fit()).evaluation()


def test_bad_files_and_arguments_are_rejected_with_a_one_line_error(tmp_path: Path) -> None:
    empty = [*ROWS[:15], ("a man plays", " ", "no"), *ROWS[15:]]
    cases: list[tuple[list[tuple[str, str, str]], dict[str, Any], str]] = [
        (empty, {}, r"^data.path: expected a text in column hypothesis, line 17 of .*, got an empty text. Remove"),
        (
            [(first, "x", label) for first, _, label in ROWS],
            {},
            r"^data.first: expected two columns of texts in .*, got",
        ),
        (ROWS, {"first": "premise"}, r"^data.first: expected two columns of texts in .*, got premise and null"),
        (ROWS, {"first": "premise", "second": "hypothesi"}, r"hypothesis"),
        (ROWS, {"column": "premise"}, r"^data.column: expected a column other than the texts, got premise"),
        (ROWS, {"max_length": 7}, r"^data.max_length: expected at least 8"),
    ]
    for rows, options, message in cases:
        with pytest.raises(ConfigError, match=message) as caught:
            TextPairs(write(tmp_path, rows), **options).load()
        assert "\n" not in str(caught.value)


def test_a_tokenizer_without_begin_and_end_tokens_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"^data.tokenizer: expected a tokenizer with begin and end tokens"):
        PairEncoder(Words(["a"]).tokens, 9)
