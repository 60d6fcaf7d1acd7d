"""Tables and folders of texts with one target: words, vocabularies, splits, inputs and rejected files."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets.csv_file import read_csv
from dltrain.datasets.text_table import TextTable
from dltrain.datasets.words import PAD, UNKNOWN, Words, split_words
from dltrain.errors import ConfigError

SENTENCES = ("A good film .", "Not a good film !", "bad , slow and dull", "so-so")
RATINGS = (1.5, -0.5, -2.25, 0.0)


def write(folder: Path, name: str = "reviews.csv", count: int = 40, delimiter: str = ",") -> str:
    lines = [delimiter.join(("id", "rating", "text"))]
    for number in range(count):
        text = f"{SENTENCES[number % 4]} text {number}"
        lines.append(delimiter.join((str(number + 1), str(RATINGS[number % 4] + number / 1000), f'"{text}"')))
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def write_json(folder: Path) -> str:
    records = [{"label": "ab"[n % 2], "body": f"the text of number {n}", "tags": ["x", n]} for n in range(20)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n\n")
    return str(folder / "texts.jsonl")


def write_folders(folder: Path, splits: tuple[str, ...]) -> str:
    for split in splits or (".",):
        for kind in ("neg", "pos"):
            (folder / "all" / split / kind).mkdir(parents=True)
            for number in range(10):
                (folder / "all" / split / kind / f"{number}.txt").write_text(f"{kind} text {number} of {split}")
    return str(folder / "all")


def decoded(data: TextTable, batch: dict[str, torch.Tensor]) -> list[str]:
    rows = zip(batch["inputs"].tolist(), batch["lengths"].tolist(), strict=True)
    return [data.words.decode(row[:length]) for row, length in rows]


def test_text_is_split_into_words_numbers_and_punctuation_marks() -> None:
    assert split_words("Don't stop, it's 3.5 naïve…", True) == [
        *("don't", "stop", ",", "it's", "3", ".", "5", "naïve", "…")
    ]
    assert split_words("映画は good", True) == ["映", "画", "は", "good"]
    assert split_words("A b", False) == ["A", "b"]


def test_the_vocabulary_is_sorted_by_frequency_and_rare_words_are_unknown() -> None:
    words = Words.fit(["b b a c c c", "a d"], True, 2, 2)
    assert words.words[2:] == ["c", "a"]
    assert words.encode("c x a b") == [2, UNKNOWN, 3, UNKNOWN] and words.decode([2, 3, PAD]) == "c a"


def test_texts_without_words_and_a_too_large_min_count_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"^data.min_count: expected at most 3, the count of .*, got 4$"):
        Words.fit(["b b a c c c", "a d"], True, 4, 10)
    with pytest.raises(ConfigError, match=r"^data.path: expected training texts with words, got none$"):
        Words.fit(["", " "], True, 1, 10)


def test_the_vocabulary_is_fitted_to_the_training_texts_only(tmp_path: Path) -> None:
    data = TextTable(write(tmp_path), threshold=0.0)
    texts = data.table.columns[data.text]
    counts = Counter(w for row in data.parts["train"].tolist() for w in split_words(texts[row], True))
    assert set(data.words.words[2:]) == {word for word, count in counts.items() if count >= 2}


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_text_and_target_columns_are_inferred_if_unambiguous(delimiter: str, tmp_path: Path) -> None:
    data = TextTable(write(tmp_path, delimiter=delimiter))
    assert (data.table.header[data.text], data.target.name) == ("text", "rating")
    assert data.spec.targets == 1 and data.spec.classes is None


def test_ambiguous_text_or_target_columns_are_rejected_with_their_names(tmp_path: Path) -> None:
    rows = "".join(f"the first text {n},some other text {n},{n % 2},{n % 3}\n" for n in range(20))
    (tmp_path / "a.csv").write_text("title,body,label,stars\n" + rows)
    path = str(tmp_path / "a.csv")
    with pytest.raises(
        ConfigError, match=r"^data.text: expected one column of texts .* got title, body. Set data.text"
    ):
        TextTable(path)
    with pytest.raises(ConfigError, match=r"^data.column: expected one column to predict .*, got label, stars"):
        TextTable(path, text="body")
    data = TextTable(path, text="body", column="stars")
    assert data.spec.classes == 3 and data.spec.target_names == ("stars",)
    with pytest.raises(ConfigError, match=r"^data.text: .*bodi.*body"):
        TextTable(path, text="bodi")
    (tmp_path / "b.csv").write_text("body\n" + "".join(f"the only text {n}\n" for n in range(20)))
    with pytest.raises(ConfigError, match=r"^data.column: expected one column to predict in .*b\.csv, got none$"):
        TextTable(str(tmp_path / "b.csv"))


def test_threshold_adds_two_classes_to_a_numeric_target(tmp_path: Path) -> None:
    data = TextTable(write(tmp_path), threshold=0.0)
    assert data.spec.class_names == ("up to 0", "above 0") and data.spec.targets == 1
    ratings = data.table.numbers(data.column)
    for split, source in zip(("train", "val", "test"), vars(data.load()).values(), strict=False):
        batch = next(iter(Batches(source, 100)))
        order = Batches(source, 100).plan(0)[0].numpy()
        own = ratings[data.parts[split].numpy()][order]
        assert batch["targets"].tolist() == (own > 0).astype(int).tolist()
        numbers = batch["values"].double() * batch["scale"] + batch["shift"] + batch["shift_rest"]
        np.testing.assert_allclose(numbers[:, 0].numpy(), own, atol=1e-6)
    train = ratings[data.parts["train"].numpy()]
    assert (data.target.mean, data.target.scale) == pytest.approx((train.mean(), train.std()))
    assert abs(np.mean([(ratings[part.numpy()] > 0).mean() for part in data.parts.values()]) - 0.375) < 0.15
    with pytest.raises(ConfigError, match=r"^data.threshold: expected a number from .* to below"):
        TextTable(write(tmp_path), threshold=99.0)
    with pytest.raises(ConfigError, match=r"^data.threshold: not supported because column label has words$"):
        TextTable(write_json(tmp_path), column="label", threshold=0.5)


def test_batches_contain_the_encoded_words_of_their_texts(tmp_path: Path) -> None:
    data = TextTable(write(tmp_path), min_count=1, batch_size=7)
    train, texts = data.load().train, data.table.columns[data.text]
    batches = Batches(train, 7, training=True)
    for part, batch in zip(batches.plan(0), batches.epoch(0), strict=True):
        rows = data.parts["train"][part].tolist()
        assert decoded(data, batch) == [" ".join(split_words(texts[row], True)) for row in rows]
        assert batch["inputs"].dtype == torch.int64


def test_json_lines_and_folders_are_read(tmp_path: Path) -> None:
    data = TextTable(write_json(tmp_path), column="label")
    assert data.spec.class_names == ("a", "b") and data.table.header[data.text] == "body"
    data = TextTable(write_folders(tmp_path, ()))
    assert data.spec.class_names == ("neg", "pos") and [len(part) for part in data.parts.values()] == [14, 3, 3]


def test_text_folders_named_train_and_test_are_used_as_splits(tmp_path: Path) -> None:
    data = TextTable(write_folders(tmp_path, ("train", "test")), validation=0.2)
    texts = data.table.columns[data.text]
    assert all("train" in texts[row] for split in ("train", "val") for row in data.parts[split].tolist())
    assert sorted(texts[row] for row in data.parts["test"].tolist()) == sorted(
        f"{kind} text {n} of test" for kind in ("neg", "pos") for n in range(10)
    )
    assert len(data.parts["val"]) == 4


@pytest.mark.parametrize("splits", [("val", "test"), ("test",), ("train", "val", "valid")])
def test_split_folders_without_train_or_with_both_val_and_valid_are_rejected(
    splits: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=f"train, val and test with one folder per class .* got {', '.join(sorted(splits))}"
    ):
        TextTable(write_folders(tmp_path, splits))


def test_truncated_long_texts_and_empty_texts_are_reported(tmp_path: Path) -> None:
    rows = "".join(f"{'word ' * (n + 1)}{n},{'ab'[n % 2]}\n" for n in range(30)) + ",a\n"
    (tmp_path / "a.csv").write_text("text,label\n" + rows)
    data = TextTable(str(tmp_path / "a.csv"), max_length=12)
    description = "\n".join(data.describe())
    assert (
        "19 texts truncated to 12 tokens (data.max_length)" in description and "1 text without a token" in description
    )
    lengths = torch.cat([source.rows["tokens"].lengths for source in vars(data.load()).values() if source])
    assert (int(lengths.min()), int(lengths.max())) == (0, 12) and data.spec.length == 16
    (piece,) = data.inputs(InputFiles(text="word " * 20))
    assert piece.names == [{"input": "--text", "unread_words": 8}]


def test_inputs_are_read_from_csv_json_lines_and_text_files_and_from_the_command_line(tmp_path: Path) -> None:
    data = TextTable(write(tmp_path), threshold=0.0)
    (tmp_path / "new.csv").write_text('text,other\na good film,1\n"bad, slow",2\n')
    (tmp_path / "new.jsonl").write_text('{"text": "a good film"}\n')
    (tmp_path / "new.txt").write_text("a good film")
    for name, line in (("new.csv", 2), ("new.jsonl", 1), ("new.txt", None)):
        piece = next(data.inputs(InputFiles((str(tmp_path / name),))))
        assert piece.names[0]["input"] == str(tmp_path / name) and piece.names[0].get("line") == line
        assert piece.rows["tokens"].values[:3].tolist() == data.words.encode("a good film")
    (tmp_path / "other.csv").write_text("review,x\na good film,1\n")
    with pytest.raises(
        ConfigError,
        match=r"^INPUT 1: expected the column text in .*other.csv, as in training, got the columns review, x",
    ):
        list(data.inputs(InputFiles((str(tmp_path / "other.csv"),))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"text": "a", "label": 1}\nnonsense\n',
            r"a JSON object with fields in line 2 of .*, got text that is not JSON \(Expecting value\)",
        ),
        ("[1, 2]\n", r"a JSON object with fields in line 1 of .*"),
        ("[" * 100_000 + "\n", r"a JSON object with fields in line 1 of .*, got text that is not JSON \(maximum"),
        ("", r"a JSON object in each line of .*, got no line"),
    ],
)
def test_a_line_that_is_not_a_json_object_is_rejected_with_its_number(
    content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=f"^data.path: expected {message}"):
        TextTable(str(tmp_path / "a.jsonl"))


def test_the_error_for_a_json_file_that_is_not_utf8_does_not_expect_a_csv_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(ConfigError, match=r"^data.path: expected a readable file in UTF-8 at .*a.jsonl, got 'utf-8'"):
        TextTable(str(tmp_path / "a.jsonl"))


def test_unreadable_lines_and_files_can_be_skipped(tmp_path: Path) -> None:
    path = Path(write_json(tmp_path))
    path.write_text(path.read_text() + "{broken\n")
    data = TextTable(str(path), column="label", on_bad_sample="skip")
    assert len(data.table) == 20 and len(data.bad.found) == 1
    folder = Path(write_folders(tmp_path, ()))
    (folder / "neg" / "broken.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=r"^data.path: expected UTF-8 text at .*broken.txt"):
        TextTable(str(folder))
    assert len(TextTable(str(folder), on_bad_sample="skip").table) == 20


def test_max_tokens_must_be_at_least_max_length_and_needs_batching_by_length(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ConfigError, match=r"^data.max_tokens: expected a whole number of at least 256, got 200"):
        TextTable(path, max_tokens=200)
    with pytest.raises(ConfigError, match=r"^data.max_tokens: expected null with data.batching=random"):
        TextTable(path, max_tokens=512, batching="random")
    batches = list(Batches(TextTable(path, max_tokens=64, max_length=32).load().train, 64, training=True))
    assert all(batch["inputs"].numel() <= 64 for batch in batches)


def test_quotes_in_tab_separated_files_are_literal_unless_they_enclose_a_cell(tmp_path: Path) -> None:
    cells = ['" an open quote', 'an open quote"', '"a ""quoted"" word"', 'said "yes"', "plain"]
    for name, extra in (("raw.tsv", ""), ("quoted.tsv", 'x\t"two\nlines"\n')):
        rows = cells if not extra else cells[2:]
        (tmp_path / name).write_text(
            "label\ttext\n" + "".join(f"{'ab'[n % 2]}\t{c}\n" for n, c in enumerate(rows)) + extra
        )
        table = read_csv(tmp_path / name)
        found = [table.columns[1][row] for row in range(len(table))]
        expected = [c if c != cells[2] else 'a "quoted" word' for c in rows] + ["two\nlines"] * bool(extra)
        assert found == expected
        assert [table.columns[0][row] for row in range(len(rows))] == ["ab"[n % 2] for n in range(len(rows))]
    data = TextTable(str(tmp_path / "raw.tsv"), text="text", min_count=1, test=0.2, validation=0.2)
    (piece,) = data.inputs(InputFiles((str(tmp_path / "raw.tsv"),)))
    assert [name["line"] for name in piece.names] == [2, 3, 4, 5, 6]


def test_inputs_and_evaluation_files_are_encoded_with_the_fitted_state_only(tmp_path: Path) -> None:
    data = TextTable(write(tmp_path), threshold=0.0)
    again = TextTable(str(tmp_path / "gone.csv"), threshold=0.0, fitted=data.fit())
    assert again.spec.class_names == data.spec.class_names and again.spec.tokens.size == data.spec.tokens.size
    one, other = (next(iter(found.inputs(InputFiles(text="not a good film")))) for found in (data, again))
    assert torch.equal(one.rows["tokens"].values, other.rows["tokens"].values)
    (tmp_path / "other.csv").write_text("text,rating\na good film,2.5\nunheard,-1\n")
    source = TextTable(str(tmp_path / "other.csv"), fitted=data.fit()).evaluation()
    batches = list(Batches(source, 10))
    assert [batch["targets"].tolist() for batch in batches] == [[1], [0]] and batches[1]["inputs"].tolist() == [
        [UNKNOWN]
    ]
    numbers = [each["values"].double() * each["scale"] + each["shift"] + each["shift_rest"] for each in batches]
    np.testing.assert_allclose(torch.cat(numbers)[:, 0].numpy(), [2.5, -1], atol=1e-6)


def test_a_class_absent_from_the_training_data_is_rejected_in_evaluation(tmp_path: Path) -> None:
    data = TextTable(write_json(tmp_path), column="label")
    (tmp_path / "other.jsonl").write_text('{"body": "the text", "label": "c"}\n')
    other = TextTable(str(tmp_path / "other.jsonl"), fitted=data.fit())
    expected = r"^data.path: expected one of the classes \(a, b\) in column label, line 1 of .*, got c"
    with pytest.raises(ConfigError, match=expected):
        other.evaluation()


def test_with_special_tokens_each_text_has_begin_and_end_tokens_within_the_maximum_length(tmp_path: Path) -> None:
    data = TextTable(write(tmp_path), threshold=0.0, max_length=6, special_tokens=True)
    tokens = data.spec.tokens
    assert tokens is not None and (tokens.pad, tokens.unknown, tokens.begin, tokens.end, tokens.mask) == (0, 1, 2, 3, 4)
    rows = [
        row[:length]
        for batch in Batches(data.load().train, 8)
        for row, length in zip(batch["inputs"].tolist(), batch["lengths"].tolist(), strict=True)
    ]
    assert all(row[0] == 2 and row[-1] == 3 and not {2, 3, 4} & set(row[1:-1]) for row in rows)
    assert {len(row) for row in rows} == {6}  # all texts have at least 5 tokens and are truncated to 4
    assert data.words.encode("good <mask> film") == [*data.words.encode("good"), 4, *data.words.encode("film")]
    assert len({data.words.decode([number]) for number in range(1, tokens.size)}) == tokens.size - 1
    again = TextTable("moved.csv", threshold=0.0, max_length=6, special_tokens=True, fitted=data.fit())
    assert again.words.words == data.words.words
    (given,) = again.inputs(InputFiles(text="a good film and a bad film"))
    assert given.names[0]["unread_words"] == 3


def write_tokenizer(folder: Path) -> str:
    """Write a WordPiece tokenizer with the special tokens of BERT, truncation and padding."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "film", ".", "un", "##watch", "text", "bad"]
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(words[:5])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


def test_texts_are_split_by_a_user_tokenizer_that_is_restored_without_its_file(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    file = write_tokenizer(tmp_path)
    data = TextTable(write(tmp_path), threshold=0.0, max_length=8, tokenizer=file)
    tokens = data.spec.tokens
    assert tokens is not None and tokens.encode is not None and tokens.decode is not None
    assert (tokens.size, tokens.pad, tokens.begin, tokens.end, tokens.mask, tokens.unknown) == (13, 0, 2, 3, 4, 1)
    assert tokens.encode("A [MASK] film, unwatch") == [5, 4, 7, 1, 9, 10]  # neither truncated nor padded
    batch = next(iter(Batches(data.load().train, 40)))
    rows = [row[:length] for row, length in zip(batch["inputs"].tolist(), batch["lengths"].tolist(), strict=True)]
    assert all(row[0] == 2 and row[-1] == 3 and len(row) <= 8 for row in rows)
    (tmp_path / "tokenizer.json").unlink()
    again = TextTable("moved.csv", threshold=0.0, max_length=8, tokenizer=file, fitted=data.fit())
    (given,) = again.inputs(InputFiles(text="a good film"))
    assert given.rows["tokens"].values.tolist() == [2, 5, 6, 7, 3]


def test_a_missing_or_invalid_tokenizer_file_is_rejected(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ConfigError, match=r"^data.tokenizer: expected a file tokenizer.json of the package tokenizers"):
        TextTable(write(tmp_path), tokenizer=str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"^data.tokenizer: expected an existing file tokenizer.json"):
        TextTable(write(tmp_path), tokenizer=str(tmp_path / "tokens.json"))


def test_num_labels_reduces_the_training_texts_but_not_the_vocabulary(tmp_path: Path) -> None:
    whole, some = (TextTable(write(tmp_path), threshold=0.0, num_labels=count) for count in (None, 20))
    splits, less = whole.load(), some.load()
    assert len(less.train) == 20 and len(less.test) == len(splits.test) and some.words.words == whole.words.words
    share = splits.train.rows["targets"].double().mean()
    assert abs(less.train.rows["targets"].double().mean() - share) <= 1 / 20
    assert set(some.parts["train"].tolist()) < set(whole.parts["train"].tolist())
    assert torch.equal(some.load().train.rows["targets"], less.train.rows["targets"])
    assert "splits: 20 training" in some.describe()[-1]
    with pytest.raises(ConfigError, match=r"^data.num_labels: expected a whole number from 1 to \d+, the number"):
        TextTable(write(tmp_path), threshold=0.0, num_labels=1000).load()
