"""Parallel text: tables and aligned files, vocabularies, splits, and errors with line numbers."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets import subwords, vocabularies
from dltrain.datasets.parallel import Parallel
from dltrain.datasets.random_pairs import RandomPairs
from dltrain.datasets.reversal import Reversal
from dltrain.datasets.vocabularies import BEGIN, END, PAD, SPECIAL, UNKNOWN
from dltrain.errors import ConfigError

WORDS = [("the", "el"), ("dog", "perro"), ("cat", "gato"), ("sees", "ve"), ("and", "y")]
MISSING = pytest.mark.skipif(not importlib.util.find_spec("tokenizers"), reason="tokenizers is not installed")
SUBWORDS = [pytest.param(kind, marks=MISSING) for kind in ("bpe", "wordpiece")]


def phrases(count: int = 60) -> list[tuple[str, str]]:
    random = np.random.default_rng(0)
    drawn = [[WORDS[number] for number in random.integers(0, 5, 1 + row % 9)] for row in range(count)]
    return [(" ".join(source for source, _ in pairs), " ".join(target for _, target in pairs)) for pairs in drawn]


def write_table(folder: Path, rows: list[tuple[str, ...]], header: str = "en\tes") -> str:
    (folder / "pairs.tsv").write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n")
    return str(folder / "pairs.tsv")


def write_files(folder: Path, sources: list[str], targets: list[str]) -> list[str]:
    for name, lines in (("a.en", sources), ("a.es", targets)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return [str(folder / "a.en"), str(folder / "a.es")]


def texts_of(data: Parallel) -> list[set[tuple[str, str]]]:
    """Return the decoded pairs of each split."""
    splits = data.load()
    found = []
    for source in (splits.train, splits.val, splits.test):
        pairs = set()
        for batch in Batches(source, 8):
            for row, length, target in zip(batch["inputs"], batch["lengths"], batch["targets"], strict=True):
                assert int(target[int((target != PAD).sum()) - 1]) == END
                texts = data.spec.tokens.decode(row[:length].tolist()), data.spec.target_tokens.decode(target.tolist())
                pairs.add(texts)
        found.append(pairs)
    return found


@pytest.mark.parametrize("tokens", ["words", "characters", *SUBWORDS])
def test_a_table_and_two_aligned_files_give_the_same_pairs(tokens: str, tmp_path: Path) -> None:
    pairs = phrases()
    options = {"tokens": tokens, "min_count": 1, "max_words": 400}
    table = texts_of(Parallel(write_table(tmp_path, pairs), **options))
    files = texts_of(Parallel(write_files(tmp_path, *map(list, zip(*pairs, strict=True))), **options))
    assert table == files and set.union(*table) == set(pairs)
    assert all(table)


def test_previous_tokens_are_the_targets_shifted_by_one(tmp_path: Path) -> None:
    for data in (Parallel(write_table(tmp_path, phrases())), Reversal(40, 6, 5)):
        for batch in Batches(data.load().train, 8, training=True):
            previous, targets = batch["previous"], batch["targets"]
            assert bool((previous[:, 0] == BEGIN).all()) and torch.equal(previous[:, 1:], targets[:, :-1])
            assert bool(((targets == END).sum(1) == 1).all())


def test_the_first_two_text_columns_are_used_unless_other_columns_are_set(tmp_path: Path) -> None:
    rows = [(str(number), source, target, "note") for number, (source, target) in enumerate(phrases())]
    path = write_table(tmp_path, rows, "id\ten\tes\tremark")
    assert Parallel(path).columns == ["en", "es"]
    assert Parallel(path, source="es", target="en").columns == ["es", "en"]
    assert Parallel(path, target="en").columns == ["es", "en"]


def test_vocabularies_are_fitted_to_the_training_texts(tmp_path: Path) -> None:
    pairs = [(f"a b word{number}", f"c d wort{number}") for number in range(40)]
    data = Parallel(write_table(tmp_path, pairs), min_count=1, validation=0.2, test=0.2)
    trained = {source for source, _ in texts_of(data)[0]}
    assert set(data.vocabularies[0].content) == {word for text in trained for word in text.split()}
    assert all("<unknown>" in target for _, target in texts_of(data)[2])


def test_batches_have_at_most_5_percent_padding_and_at_most_max_tokens(tmp_path: Path) -> None:
    data = Parallel(write_table(tmp_path, phrases(400)), max_length=15, max_tokens=64, min_count=1)
    batches = Batches(data.load().train, 99, training=True)
    assert all(batch[name].numel() <= 64 for batch in batches for name in ("inputs", "targets"))
    assert batches.padding is not None and batches.padding <= 0.05


def test_pairs_with_a_long_text_are_left_out_and_counted(tmp_path: Path) -> None:
    data = Parallel(write_table(tmp_path, phrases()), max_length=6, min_count=1)
    pairs = set.union(*texts_of(data))
    assert pairs == {pair for pair in phrases() if len(pair[0].split()) <= 6}
    assert any("18 pairs left out: a text has more than 6 tokens" in line for line in data.describe())
    assert len(data.evaluation()) == 60


def error_of(function: Callable[[], Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        function()
    return list(caught.value.problems)


def test_files_with_different_numbers_of_lines_are_rejected_with_the_first_extra_line(tmp_path: Path) -> None:
    paths = write_files(tmp_path, ["a b", "c d", "e"], ["x", "y"])
    (line,) = error_of(lambda: Parallel(paths))
    assert line == (
        f"data.path: expected as many lines in {paths[1]} as in {paths[0]}, which has 3, got 2. "
        f"Line 3 of {paths[0]} has no counterpart."
    )
    paths = write_files(tmp_path, ["a b"], ["x", "y", "z"])
    assert f"which has 1, got 3. Line 2 of {paths[1]} has no counterpart." in error_of(lambda: Parallel(paths))[0]


def test_an_empty_text_is_rejected_with_its_line_or_skipped(tmp_path: Path) -> None:
    pairs = [*phrases(20), ("the dog", ""), ("", "el gato"), *phrases(5)]
    path, files = write_table(tmp_path, pairs), write_files(tmp_path, *map(list, zip(*pairs, strict=True)))
    (line,) = error_of(lambda: Parallel(path))
    assert line.startswith("data.path: expected a source and a target in line 22 of pairs.tsv, got an empty target")
    (line,) = error_of(lambda: Parallel(files))
    assert line.startswith("data.path: expected a source and a target in line 21 of a.en and a.es, got an empty target")
    for where in (path, files):
        data = Parallel(where, on_bad_sample="skip", min_count=1)
        assert len(data.pairs.sources) == 25 and len(data.bad.found) == 2


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text\na b\nc d\n", {}, "data.path: expected a table with columns of sources and targets, or two aligned"),
        ("en\tn\na b\t1\nc d\t2\n", {}, "data.path: expected two columns of texts in .*, got fewer. Set data.source"),
        ("en\tes\na\tb\nc\td\n", {}, "data.path: expected at least 3 pairs in pairs.tsv, got 2"),
        ("en\tes\n" + "a\tb\n" * 9, {"target": "fr"}, "data.target: expected one of the columns of .*: en, es, got fr"),
        (
            "en\tes\n" + "a b\tb\n" * 9,
            {"max_length": 1},
            "data.max_length: expected a length that keeps some pairs of each",
        ),
        (
            "en\tes\n" + "a\tb c\n" * 9,
            {"max_target_length": 1},
            "data.max_target_length: expected a length that keeps some pairs of each split, got 1",
        ),
        ("en\tes\n" + "a\tb\n" * 9, {"min_count": 20}, "data.min_count: expected at most 7, the count of the most"),
        (
            "en\tes\n" + "a\tb\n" * 9,
            {"tokens": "bytes"},
            "data.tokens: expected one of words, characters, bpe, wordpiece",
        ),
        ("en\tes\n" + "a\tb\n" * 9, {"max_tokens": 8}, "data.max_tokens: expected a whole number of at least 72"),
        (b"\xff\xfe\xff\x00", {}, "data.path: expected"),
    ],
)
def test_unusable_tables_and_invalid_options_are_rejected(
    content: str | bytes, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=f"^{message}"):
        Parallel(str(file), **options)


def test_invalid_options_and_contents_of_text_files_are_rejected(tmp_path: Path) -> None:
    paths = write_files(tmp_path, ["a"] * 9, ["b"] * 9)
    assert "got 3 files" in error_of(lambda: Parallel([*paths, paths[0]]))[0]
    assert error_of(lambda: Parallel(paths, source="en"))[0].startswith("data.source: not supported because")
    (tmp_path / "a.es").write_bytes(b"caf\xe9\n" * 9)
    assert error_of(lambda: Parallel(paths))[0].startswith(f"data.path: expected UTF-8 text at {paths[1]}")


def test_inputs_are_lines_of_text_files_or_cells_of_the_source_column(tmp_path: Path) -> None:
    data = Parallel(write_table(tmp_path, phrases()), min_count=1)
    (tmp_path / "new.txt").write_text("the dog\nthe cat sees\n")
    (tmp_path / "new.tsv").write_text("es\ten\n-\tthe cat\n")
    names = (str(tmp_path / "new.txt"), str(tmp_path / "new.tsv"))
    found = list(data.inputs(InputFiles(names, "dog sees", 1)))
    texts = [data.vocabularies[0].decode(piece.rows["source"].values.tolist()) for piece in found]
    assert texts == ["dog sees", "the dog", "the cat sees", "the cat"]
    assert [name.get("line") for piece in found for name in piece.names] == [None, 1, 2, 2]


def test_an_empty_line_to_translate_is_rejected_with_its_number(tmp_path: Path) -> None:
    data = Parallel(write_table(tmp_path, phrases()), min_count=1)
    (tmp_path / "new.txt").write_text("the dog\n\nthe cat\n")
    (line,) = error_of(lambda: list(data.inputs(InputFiles((str(tmp_path / "new.txt"),)))))
    assert line == f"INPUT 1: expected a text in line 2 of {tmp_path / 'new.txt'}, got an empty text"
    assert error_of(lambda: list(data.inputs(InputFiles((), " "))))[0] == "--text: expected a text, got an empty text"


@pytest.mark.parametrize("kind", ["words", "characters", *SUBWORDS])
def test_a_restored_vocabulary_encodes_identically_and_names_of_special_tokens_are_read_as_text(kind: str) -> None:
    texts = ["A cafe, a café: 東京!", "<end> a <pad>"] * 3
    vocabulary = vocabularies.fit(kind, texts, lowercase=False, min_count=2, max_words=400)
    again = vocabularies.restore(kind, vocabulary.content, lowercase=False)
    for text in texts:
        assert again.encode(text) == vocabulary.encode(text)
        assert min(vocabulary.encode(text)) >= len(SPECIAL)
        decoded = vocabulary.decode([BEGIN, *vocabulary.encode(text), END, PAD])
        assert decoded.replace(" ", "") == text.replace(" ", "")
    if kind == "bpe":
        assert vocabulary.decode(vocabulary.encode("unseen: ñandú")) == "unseen: ñandú"
    else:
        assert vocabulary.encode("%") == [UNKNOWN]


@MISSING
def test_byte_pair_encoding_is_the_same_in_every_process() -> None:
    code = """
from dltrain.datasets import vocabularies
texts = [" ".join(str(n * m) for m in range(9)) for n in range(300)]
print(vocabularies.fit("bpe", texts, True, 2, 500).content[0])
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    texts = [" ".join(str(n * m) for m in range(9)) for n in range(300)]
    assert other == f"{vocabularies.fit('bpe', texts, True, 2, 500).content[0]}\n"


def save_tokenizer(path: Path, words: str) -> str:
    """Save a word tokenizer whose last token is the unknown token; return its path."""
    import tokenizers

    known = {word: number for number, word in enumerate([*words.split(), "[UNK]"])}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.add_special_tokens(["[UNK]"])
    own.save(str(path))
    return str(path)


@MISSING
def test_tokens_of_user_tokenizers_follow_the_special_tokens_and_are_restored_without_the_files(tmp_path: Path) -> None:
    path = write_table(tmp_path, phrases())
    files = [save_tokenizer(tmp_path / "en.json", "the dog cat"), save_tokenizer(tmp_path / "es.json", "perro el y ve")]
    data = Parallel(path, tokenizer=files)
    tokens, targets = data.spec.tokens, data.spec.target_tokens
    assert (tokens.size, targets.size) == (4 + 4, 4 + 5)
    assert tokens.encode("the sees cat") == [4, UNKNOWN, 6] and targets.encode("y perro") == [6, 4]
    assert targets.decode([BEGIN, 6, UNKNOWN, 4, END, PAD]) == "y [UNK] perro"
    restored = Parallel(path, tokenizer="gone.json", fitted=data.fit())
    assert restored.spec.target_tokens.encode("y perro") == [6, 4]
    (line,) = error_of(lambda: Parallel(path, tokenizer=files[:1]))
    assert line.startswith("data.tokenizer: expected one file, or a list of two") and line.endswith(f"got [{files[0]}]")


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_subwords_are_rejected_with_an_install_hint_if_tokenizers_is_missing(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subwords, "find_spec", lambda name: None)
    (line,) = error_of(lambda: Parallel(write_table(tmp_path, phrases()), tokens=kind))
    assert line.startswith(f"data.tokens={kind}: not supported because tokenizers") and "dltrain[text]" in line


def test_the_target_of_a_random_sequence_is_its_reverse() -> None:
    data = Reversal(sequences=400, steps=7, symbols=5)
    splits = data.load()
    assert [len(each) for each in (splits.train, splits.val, splits.test)] == [360, 20, 20]
    rows = splits.train.rows
    assert torch.equal(rows["target"][:, :-1], rows["source"].flip(1)) and bool((rows["target"][:, -1] == END).all())
    counts = torch.bincount(rows["source"].flatten().long(), minlength=9)
    assert counts[: len(SPECIAL)].sum() == 0 and counts[len(SPECIAL) :].min() > 400
    assert len({tuple(row) for row in rows["source"].tolist()}) > 350
    assert data.vocabulary.decode(data.vocabulary.encode("a bc")) == "a b c"


def test_the_number_of_letters_is_limited_by_the_alphabet() -> None:
    (line,) = error_of(lambda: Reversal(symbols=27))
    assert line == "data.symbols: expected a whole number from 2 to 26, got 27"


def test_random_pairs_are_uniform_and_the_same_in_all_splits() -> None:
    data = RandomPairs(200, 50, 24)
    splits = data.load()
    assert splits.train is splits.val is splits.test
    (batch,) = Batches(splits.train, 200, training=False)
    source, target = batch["inputs"], batch["targets"]
    assert source.shape == (200, 50) and target.shape == (200, 51) and bool((target[:, -1] == END).all())
    counts = torch.stack([source, target[:, :-1]]).flatten().bincount()
    assert counts[: len(SPECIAL)].sum() == 0 and len(counts) == 24
    assert int(counts[len(SPECIAL) :].min()) > 850 and int(counts.max()) < 1150, (
        "each of the 20 tokens occurs about 1,000 times"
    )
    assert float((source == target[:, :-1]).float().mean()) < 0.1, "targets do not depend on sources"
    assert data.vocabulary.encode("0 19") == [4, 23]


@pytest.mark.parametrize("kind", ["words", *SUBWORDS])
def test_a_shared_vocabulary_is_fitted_to_both_sides_and_restored(tmp_path: Path, kind: str) -> None:
    path = write_table(tmp_path, phrases())
    separate, shared = (Parallel(path, tokens=kind, shared_vocabulary=value) for value in (False, True))
    assert separate.spec.shared_vocabulary is False and shared.spec.shared_vocabulary is True
    source, target = shared.vocabularies
    assert source.encode("the perro") == target.encode("the perro") and UNKNOWN not in source.encode("the perro")
    again = Parallel(path, tokens=kind, shared_vocabulary=True, fitted=shared.fit())
    assert again.spec.shared_vocabulary is True and again.vocabularies[0].content == source.content


def test_several_tables_have_their_own_prefixes_weights_and_columns(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": str(number % 2)} for number in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = [write_table(tmp_path, phrases(40)), str(tmp_path / "a.jsonl")]
    options = {"source": ["en", "text"], "target": ["es", "label"], "prefix": ["translate", "classify: "]}
    data = Parallel(path, **options, weight=[1, 3], min_count=1, num_labels=10)
    assert data.spec.prefixes == ("translate: ", "classify: ")
    splits = data.load()
    batches = list(Batches(splits.train, 99))
    texts = [data.spec.tokens.decode(row.tolist()) for batch in batches for row in batch["inputs"]]
    tasks = torch.cat([batch["text_task"] for batch in batches])
    assert [text.startswith("classify : text") for text in texts] == (tasks == 1).tolist()
    assert tasks.bincount().tolist() == [10, 30], (
        "10 pairs of the first file, and 10 pairs of the second file three times"
    )
    assert len(splits.val) == len(splits.test) == 4
    restored = Parallel(["gone.tsv", "gone.jsonl"], **options, fitted=data.fit())
    assert restored.spec.tokens.encode("classify: text 3") == data.spec.tokens.encode("classify: text 3")
    (line,) = error_of(lambda: Parallel(path, prefix=["translate"]))
    assert line == "data.prefix: expected one value, or one for each of 2 tables, got a list of length 1"


def test_a_single_prefix_is_added_to_texts_and_long_sources_are_truncated(tmp_path: Path) -> None:
    data = Parallel(write_table(tmp_path, phrases()), prefix="translate", min_count=1, max_length=5, cut_sources=True)
    assert data.spec.tokens.decode(data.spec.tokens.encode("the dog sees the cat")) == "translate : the dog sees"
    lengths = torch.cat([batch["lengths"] for batch in Batches(data.load().train, 8)])
    assert int(lengths.max()) == 5 and any("sources truncated to 5 tokens" in line for line in data.describe())


def test_sentinels_follow_the_vocabulary_and_are_not_recognized_in_training_texts(tmp_path: Path) -> None:
    pairs = [*phrases(), ("dog <extra_id_0>", "perro")]
    data = Parallel(write_table(tmp_path, pairs), sentinels=3, shared_vocabulary=True, min_count=1)
    tokens = data.spec.tokens
    assert tokens.sentinels == tuple(range(tokens.size - 3, tokens.size))
    assert tokens.encode("dog <extra_id_2>") == [*tokens.encode("dog"), tokens.size - 1]
    assert tokens.decode(tokens.encode("<extra_id_0> dog <extra_id_1>")) == "<extra_id_0> dog <extra_id_1>"
    assert not any(token in tokens.sentinels for row in data.encoded[0] for token in row)
    assert tokens.sentinels[-1] not in tokens.encode("<extra_id_3>")
