"""Span corruption: restored texts, the fraction of masked tokens, predictions, and invalid settings."""

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dltrain.errors import ConfigError
from dltrain.keyed_random import mix
from dltrain.models.t5 import T5
from dltrain.tasks.noise_spans import count_spans, draw_spans, fill_spans
from dltrain.tasks.span_corruption import SpanCorruption

PAD, UNKNOWN, BEGIN, END = range(4)
SENTINELS = tuple(range(90, 100))
VOCABULARY = 100


def task(**options: object) -> SpanCorruption:
    special = {"pad_token": PAD, "begin_token": BEGIN, "end_token": END, "unknown_token": UNKNOWN}
    fixed = {"vocabulary": VOCABULARY, "length": 60, "sentinels": SENTINELS, "shared_vocabulary": True, **special}
    return SpanCorruption(**{**fixed, **options})  # type: ignore[arg-type]


def texts(count: int, longest: int = 60) -> tuple[list[list[int]], dict[str, Tensor]]:
    """Return random texts, as lists of tokens and as one padded batch."""
    noise = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, longest + 1, (count,), generator=noise)
    rows = [torch.randint(4, 90, (length,), generator=noise) for length in lengths.tolist()]
    batch = {"inputs": pad_sequence(rows, batch_first=True), "lengths": lengths}
    return [row.tolist() for row in rows], batch


def keys(count: int) -> Tensor:
    return mix(torch.arange(count))


def test_replacing_the_sentinels_with_the_spans_of_the_target_restores_every_text() -> None:
    rows, batch = texts(2000)
    found = task().corrupt(batch, keys(2000))
    assert found["inputs"].shape[1] == int(found["lengths"].max())
    assert bool((found["targets"] != PAD).any(0).all()), "no step is padding in all rows"
    changed = 0
    for number, row in enumerate(rows):
        source = found["inputs"][number, : found["lengths"][number]].tolist()
        target = found["targets"][number].tolist()
        assert set(found["inputs"][number, found["lengths"][number] :].tolist()) <= {PAD}
        end = target.index(END)
        assert set(target[end + 1 :]) <= {PAD} and found["previous"][number].tolist() == [BEGIN, *target[:-1]]
        marks = [token for token in source if token in SENTINELS]
        assert [token for token in target if token in SENTINELS] == list(SENTINELS[: len(marks) + 1])
        assert marks == list(SENTINELS[: len(marks)]) and target[end - 1] == SENTINELS[len(marks)]
        assert fill_spans(source, target[:end], SENTINELS) == row
        changed += source != row
    assert changed == sum(len(row) > 1 for row in rows), "every text of two tokens or more has a masked span"


def test_the_fraction_of_masked_tokens_and_the_length_of_spans_are_as_published() -> None:
    lengths = torch.full((200,), 512)
    masked, spans = count_spans(lengths, 0.15, 3.0)
    mask = draw_spans(keys(200), lengths, masked, spans, 512)
    starts = mask & ~torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    assert mask.sum() / mask.numel() == pytest.approx(0.15, rel=0.01)
    assert mask.sum() / starts.sum() == pytest.approx(3.0, rel=0.02)
    assert not mask[:, 0].any() and mask[:, -1].all(), "texts start with a visible part and end with a masked one"
    short, batch = texts(4000)
    found = task().corrupt(batch, keys(4000))
    tokens = sum(map(len, short))
    written = int(((found["targets"] >= 4) & (found["targets"] < 90)).sum())
    assert tokens > 100_000 and written / tokens == pytest.approx(0.15, rel=0.01)


def test_all_divisions_into_spans_are_equally_likely() -> None:
    lengths = torch.full((6000,), 7)
    mask = draw_spans(keys(6000), lengths, torch.full_like(lengths, 3), torch.full_like(lengths, 2), 7)
    counts = Counter(map(tuple, mask.int().tolist()))
    # Four visible tokens can be divided into two parts in 3 ways, three masked tokens in 2 ways.
    assert len(counts) == 6 and all(900 < count < 1100 for count in counts.values())


def test_the_corruption_of_a_text_depends_on_its_key_and_not_on_the_other_texts_of_the_batch() -> None:
    _, batch = texts(40)
    whole = task().corrupt(batch, keys(40))
    length = int(batch["lengths"][3])
    alone = task().corrupt({"inputs": batch["inputs"][3:4, :length], "lengths": batch["lengths"][3:4]}, keys(40)[3:4])
    for name in ("inputs", "targets"):
        width = alone[name].shape[1]
        assert torch.equal(whole[name][3, :width], alone[name][0]) and not whole[name][3, width:].any()
    again = task().corrupt(batch, keys(80)[40:])
    assert not torch.equal(again["inputs"], whole["inputs"])


def test_corrupted_windows_of_equal_length_are_not_padded() -> None:
    rows = torch.randint(4, 90, (5, 60), generator=torch.Generator().manual_seed(0))
    found = task().corrupt({"inputs": rows}, keys(5))
    assert set(found) == {"inputs", "previous", "targets"}
    # 9 of the 60 tokens are masked, in 3 spans; the targets also have 4 sentinels and the end token.
    assert found["inputs"].shape == (5, 54) and found["targets"].shape == (5, 14)
    pairs = zip(found["inputs"].tolist(), found["targets"][:, :-1].tolist(), strict=True)
    assert [fill_spans(*pair, SENTINELS) for pair in pairs] == rows.tolist()


def test_the_sentinels_of_a_text_are_filled_in_and_a_text_without_sentinels_is_rejected() -> None:
    torch.manual_seed(0)
    model = T5(VOCABULARY, VOCABULARY, hidden_size=16, num_layers=1, num_heads=2, shared_vocabulary=True).eval()
    found = task()
    rows = torch.tensor([[5, SENTINELS[0], 6, PAD]])
    (line,) = found.predict(model, {"inputs": rows, "lengths": torch.tensor([3])})
    spans = list(map(int, line["spans"].split()))
    assert line["text"] == " ".join(map(str, fill_spans([5, SENTINELS[0], 6], spans, SENTINELS)))
    with pytest.raises(ConfigError, match="text: expected at least one sentinel, such as 90, got none"):
        found.predict(model, {"inputs": rows[:, 2:], "lengths": torch.tensor([1])})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sentinels": ()}, "data.sentinels: expected at least 2 for span_corruption, got 0"),
        ({"shared_vocabulary": False}, "data.shared_vocabulary: expected true for span_corruption"),
        ({"sentinels": (7, 8, 9)}, "data.sentinels: expected at least 4, for texts of 60 tokens, got 3"),
    ],
)
def test_too_few_sentinels_and_separate_vocabularies_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        task(**options)
    assert caught.value.problems[0].startswith(message)
