"""Pairs of passages: half are consecutive in the file, and half are from different documents."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dltrain.data.loader import Batches
from dltrain.data.spec import Source
from dltrain.datasets.next_sentences import NEXT
from dltrain.datasets.sentence_pairs import SentencePairs
from dltrain.datasets.sentences import split_documents
from dltrain.errors import ConfigError

DOCUMENTS, SENTENCES, LENGTH = 120, 30, 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SentencePairs:
    """Return data with sentences of 2 to 8 words; each word except the last names its document and sentence."""
    path = tmp_path_factory.mktemp("pairs") / "text.txt"
    documents = [
        " ".join(
            f"D{number}s{place} {' '.join(f'd{number}s{place}w{word}' for word in range((number + place) % 7))} end."
            for place in range(SENTENCES)
        )
        for number in range(DOCUMENTS)
    ]
    path.write_text("\n\n".join(documents))
    return SentencePairs(str(path), min_count=1, max_words=10**6, max_length=LENGTH, batch_size=500)


def batches(source: Source, epoch: int = 0, **options: Any) -> dict[str, Tensor]:
    """Return all examples of an epoch as one batch."""
    parts = list(Batches(source, 500, **options).epoch(epoch))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def passages(batch: dict[str, Tensor], row: int) -> tuple[list[int], list[int]]:
    """Return the tokens of both passages without the special tokens."""
    length = int(batch["lengths"][row])
    tokens, second = batch["inputs"][row, :length].tolist(), int(batch["segments"][row].sum())
    assert batch["segments"][row, :length].tolist() == [0] * (length - second) + [1] * second
    assert not batch["inputs"][row, length:].any() and not batch["segments"][row, length:].any()
    return tokens[1 : length - second - 1], tokens[length - second : -1]


def test_half_of_the_second_passages_follow_the_first_and_the_others_are_from_another_document(
    data: SentencePairs,
) -> None:
    source, shares = data.load().train, []
    words: list[str] = data.words.words  # type: ignore[union-attr]
    text = " ".join(" ".join(map(" ".join, data.parts[0])).lower().replace(".", " .").split())
    for epoch in range(4):
        batch = batches(source, epoch, training=True)
        shares.append(batch["not_next"].double().mean())
        for row in range(0, len(batch["inputs"]), 20):
            first, second = ([words[token] for token in part] for part in passages(batch, row))
            assert first and second and len(first) + len(second) <= LENGTH - 3
            follows = " ".join([*first, *second]) in text
            assert follows == (int(batch["not_next"][row]) == NEXT)
            assert " ".join(first) in text and " ".join(second) in text
            numbers = [{word.split("s")[0] for word in part if word.startswith("d")} for part in (first, second)]
            assert (numbers[0] == numbers[1]) == follows and all(len(part) == 1 for part in numbers)
    assert float(torch.stack(shares).mean()) == pytest.approx(0.5, abs=0.01)


def test_training_pairs_depend_on_seed_epoch_and_index_and_test_pairs_only_on_the_index(
    data: SentencePairs,
) -> None:
    splits = data.load()
    one = Batches(splits.train, 500, training=True, seed=3)
    whole = batches(splits.train, 1, training=True, seed=3)
    later = next(one.epoch(1, 2))
    assert all(torch.equal(value, whole[name][1000 : 1000 + len(value)]) for name, value in later.items())
    order = whole["first"].argsort()
    for seed, epoch in ((3, 0), (4, 1)):
        other = batches(splits.train, epoch, training=True, seed=seed)
        again = other["first"].argsort()
        assert torch.equal(other["first"][again], whole["first"][order])
        changed = other["not_next"][again] != whole["not_next"][order]
        assert float(changed.double().mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(batches(splits.test, 0)["inputs"], batches(splits.test, 1, seed=5)["inputs"])


def test_every_sentence_except_the_last_of_each_document_is_in_one_first_passage(data: SentencePairs) -> None:
    val = data.load().val
    assert val is not None
    batch = batches(val)
    own = sum(len(passages(batch, row)[0]) for row in range(len(batch["inputs"])))
    encoded = [[len(data.words.encode(sentence)) for sentence in document] for document in data.parts[1]]
    assert own == sum(sum(document[:-1]) for document in encoded)  # no sentence is longer than half of a pair


def test_a_first_sentence_that_is_too_long_is_truncated_at_its_start(tmp_path: Path) -> None:
    document = f"{' '.join(f'w{number}' for number in range(40))}.\nThe next one."
    (tmp_path / "a.txt").write_text("\n\n".join([document] * 20))
    data = SentencePairs(str(tmp_path / "a.txt"), "lines", min_count=1, max_length=16)
    batch = batches(data.load().test)
    first, _ = passages(batch, 0)
    assert data.words.decode(first) == "w35 w36 w37 w38 w39 ."


def test_sentences_end_at_punctuation_or_newlines_and_documents_end_at_blank_lines() -> None:
    text = "Mr. Flask ate\n2.5 pies. “Why?” he said… “Because!”\nNow go. \n \n第一。第二！\r\n\r\n\n"
    first = ["Mr. Flask ate\n2.5 pies.", "“Why?” he said…", "“Because!”", "Now go."]
    assert split_documents(text, "punctuation") == [first, ["第一。", "第二！"]]
    assert split_documents("One. Two\nthree\n\nfour", "lines") == [["One. Two", "three"], ["four"]]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Это т. н. кит. Он здесь.", ["Это т. н. кит.", "Он здесь."]),
        ("Widać np. łódź. Śpi.", ["Widać np. łódź.", "Śpi."]),
        ("נעם. שלום.", ["נעם.", "שלום."]),  # a script without case
    ],
)
def test_a_sentence_does_not_end_before_a_lowercase_letter_of_any_alphabet(text: str, sentences: list[str]) -> None:
    assert split_documents(text, "punctuation") == [sentences]


def test_a_file_that_is_missing_or_not_utf8_or_has_too_few_documents_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One sentence. Another one. A third one.\n\nNo more.")
    expected = (
        r"^data.path: expected at least two documents, separated by blank lines, .* training split .*, got 1 document"
    )
    with pytest.raises(ConfigError, match=expected):
        SentencePairs(str(tmp_path / "a.txt"), min_count=1, validation=0.0).load()
    with pytest.raises(ConfigError, match=r"at least two documents for each split, .*, got 2 documents$"):
        SentencePairs(str(tmp_path / "a.txt"), min_count=1)
    with pytest.raises(ConfigError, match=r"^data.path: expected an existing text file, got nowhere.txt"):
        SentencePairs("nowhere.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"^data.path: expected UTF-8 text at .*: invalid start byte$"):
        SentencePairs(str(tmp_path / "a.txt"))
