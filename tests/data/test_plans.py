"""Plans that divide examples into batches: fixed size, similar lengths, token budget and streams."""

import itertools

import pytest
import torch
from torch import Generator, Tensor, nn

from dltrain.data.fingerprint import fingerprint
from dltrain.data.loader import Batches
from dltrain.data.plans import JITTER, ByLength, FixedSize, Plan, Streams
from dltrain.data.ragged import WIDTH_MULTIPLE, Padding, Ragged
from dltrain.data.spec import Source, Splits

COUNT = 103
LENGTHS = torch.randint(0, 90, (COUNT,), generator=Generator().manual_seed(1))
ALL = torch.arange(COUNT)
PLANS: dict[str, Plan] = {
    "fixed": FixedSize(),
    "by length": ByLength(LENGTHS, multiple=WIDTH_MULTIPLE),
    "token budget": ByLength(LENGTHS, max_tokens=300, multiple=WIDTH_MULTIPLE),
    "exact length": ByLength(LENGTHS),
    "jitter": ByLength(LENGTHS, jitter=JITTER),
    "two lengths": ByLength(torch.stack([LENGTHS // 9, LENGTHS.flip(0)], dim=1), jitter=JITTER),
    "streams": Streams(),
}


class Inputs(nn.Module):
    def forward(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"inputs": rows["tokens"], "lengths": rows["tokens_lengths"], "targets": rows["targets"]}


def ragged(lengths: Tensor = LENGTHS, pad: float = -1) -> Ragged:
    return Ragged(torch.arange(int(lengths.sum())), lengths, pad)


def source(plan: Plan | None = None) -> Source:
    return Source({"tokens": ragged(), "targets": ALL}, Inputs(), plan=plan)


def width(lengths: Tensor) -> int:
    return WIDTH_MULTIPLE * max(1, -(-int(lengths.max()) // WIDTH_MULTIPLE))


def area(batch: dict[str, Tensor]) -> int:
    """Return the number of attention weights per head and layer for a batch."""
    return batch["inputs"].shape[0] * batch["inputs"].shape[1] ** 2


def rows(values: Ragged) -> list[list[int]]:
    return [part.tolist() for part in values.values.split(values.lengths.tolist())]


@pytest.mark.parametrize("name", PLANS)
def test_every_epoch_has_each_example_once_and_the_same_number_of_batches(name: str) -> None:
    batches = Batches(source(PLANS[name]), 10, seed=3, training=True)
    epochs = [batches.plan(epoch) for epoch in range(4)]
    assert all(torch.equal(torch.cat(plan).sort().values, ALL) for plan in epochs)
    assert {len(plan) for plan in epochs} == {len(batches)} == {len(batches.sizes)}
    assert len({tuple(torch.cat(plan).tolist()) for plan in epochs}) == (1 if name == "streams" else 4)


def test_bucketed_batches_have_examples_of_similar_length() -> None:
    plan = PLANS["by length"](ALL, 10, Generator().manual_seed(0))
    spans = sorted((width(LENGTHS[part].min().view(1)), width(LENGTHS[part])) for part in plan)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    assert [width(LENGTHS[part]) for part in plan] != sorted(width(LENGTHS[part]) for part in plan)
    padded = sum(len(part) * width(LENGTHS[part]) for part in plan)
    assert padded < 0.75 * sum(len(part) * width(LENGTHS[part]) for part in ALL.split(10))


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_batches_are_padded_to_a_multiple_and_their_padding_is_counted(multiple: int) -> None:
    batches = Batches(source(ByLength(LENGTHS, multiple=multiple)), 10, seed=3, training=True)
    found = list(batches.epoch(0))
    for batch, part in zip(found, batches.plan(0), strict=True):
        assert batch["inputs"].shape[1] == multiple * max(1, -(-int(LENGTHS[part].max()) // multiple))
    assert batches.padding == pytest.approx(1 - int(LENGTHS.sum()) / sum(batch["inputs"].numel() for batch in found))
    assert area(batches.widest()) == max(map(area, found))


def test_a_smaller_multiple_and_sorting_by_both_fields_reduce_padding() -> None:
    first, more = torch.randint(4, 30, (2, 2000), generator=Generator().manual_seed(0))
    lengths = torch.stack([first, first + more % 6], dim=1)
    fields = {name: Ragged(torch.zeros(int(each.sum())), each) for name, each in zip("ab", lengths.T, strict=True)}
    shares = []
    longest = lengths.amax(1)
    for plan in (None, ByLength(longest, multiple=8), ByLength(longest, multiple=2), ByLength(lengths)):
        shares.append(Batches(Source(fields, nn.Identity(), plan=plan), 32, training=True).padding)
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.05 < 0.2 < shares[1]


def test_batches_have_as_many_examples_as_max_tokens_allows() -> None:
    lengths = LENGTHS.repeat(20)  # with many examples, padding is so rare that no batch is divided
    plan = ByLength(lengths, max_tokens=300, multiple=WIDTH_MULTIPLE)(torch.arange(len(lengths)), 10, None)
    plan = sorted(plan, key=lambda part: -int(lengths[part].max()))
    for part, following in itertools.pairwise(plan):
        assert len(part) * width(lengths[part]) <= 300 < (len(part) + 1) * width(lengths[part])
        assert lengths[part].max() >= lengths[following].max() - WIDTH_MULTIPLE
    assert all(len(part) * width(LENGTHS[part]) <= 300 for part in PLANS["token budget"](ALL, 10, Generator()))
    alone = ByLength(torch.tensor([3, 500, 3]), max_tokens=300)(torch.arange(3), 10, None)
    assert [part.tolist() for part in alone] == [[0, 2], [1]]


@pytest.mark.parametrize(("count", "size"), [(12, 4), (14, 4), (3, 8), (9, 1)])
def test_each_row_of_a_batch_of_streams_continues_the_same_row_of_the_previous_batch(count: int, size: int) -> None:
    plan = Streams()(torch.arange(count), size, Generator())
    assert [len(part) for part in plan[:-1]] == [min(size, count)] * (len(plan) - 1)
    for part, following in itertools.pairwise(plan):
        assert torch.equal(following, part[: len(following)] + 1)
    assert torch.equal(torch.cat(plan).sort().values, torch.arange(count))


def test_an_epoch_of_streams_marks_its_first_batch_and_can_be_resumed() -> None:
    windows = Source({"inputs": torch.arange(14)[:, None]}, nn.Identity(), plan=Streams())
    batches = Batches(windows, 4, training=True, sample=13)
    found = list(batches.epoch(2))
    assert [batch["continues"].tolist() for batch in found] == [[False] * 4, [True] * 4, [True] * 4, [True]]
    assert found[-1]["inputs"].tolist() == [[3]]
    assert [batch["inputs"].tolist() for batch in batches.epoch(2, 2)] == [b["inputs"].tolist() for b in found[2:]]


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_padded_rows_equal_torch_pad_sequence(shape: tuple[int, ...]) -> None:
    values = torch.randn(int(LENGTHS.sum()), *shape)
    padding = Padding(Ragged(values, LENGTHS, pad=7.0), torch.device("cpu"), WIDTH_MULTIPLE)
    picked = torch.tensor([5, 0, 99, 5, int(LENGTHS.argmin())])
    found, lengths = padding.gather(picked, picked)
    parts = values.split(LENGTHS.tolist())
    expected = nn.utils.rnn.pad_sequence([parts[n] for n in picked.tolist()], batch_first=True, padding_value=7.0)
    assert found.shape == (5, width(lengths), *shape) and lengths.tolist() == LENGTHS[picked].tolist()
    assert torch.equal(found[:, : expected.shape[1]], expected) and (found[:, expected.shape[1] :] == 7.0).all()


def test_rows_of_length_0_are_all_padding() -> None:
    padding = Padding(ragged(torch.tensor([0, 0, 2])), torch.device("cpu"), WIDTH_MULTIPLE)
    found, lengths = padding.gather(torch.tensor([1, 0]), torch.tensor([1, 0]))
    assert found.tolist() == [[-1] * WIDTH_MULTIPLE] * 2 and lengths.tolist() == [0, 0]


def test_ragged_rows_can_be_indexed_in_any_order() -> None:
    picked = torch.randperm(COUNT, generator=Generator().manual_seed(5))[:40]
    every = rows(ragged())
    assert rows(ragged()[picked]) == [every[index] for index in picked.tolist()]


@pytest.mark.parametrize("name", ["fixed", "by length", "token budget"])
def test_ragged_batches_have_the_planned_examples_and_are_identical_after_resuming(name: str) -> None:
    batches = Batches(source(PLANS[name]), 10, seed=3, training=True)
    plan, found, every = batches.plan(2), list(batches.epoch(2)), rows(ragged())
    for part, batch in zip(plan, found, strict=True):
        assert torch.equal(batch["targets"], part) and batch["lengths"].device.type == "cpu"
        texts = [row[:length] for row, length in zip(batch["inputs"].tolist(), batch["lengths"].tolist(), strict=True)]
        assert texts == [every[index] for index in part.tolist()]
    for start in (1, len(found) - 1, len(found)):
        again = list(batches.epoch(2, start))
        assert len(again) == len(found) - start
        assert all(torch.equal(a[k], b[k]) for a, b in zip(again, found[start:], strict=True) for k in a)


@pytest.mark.parametrize("name", ["fixed", "by length", "token budget"])
def test_the_widest_batch_has_the_most_attention_weights_in_the_first_epoch(name: str) -> None:
    batches = Batches(source(PLANS[name]), 10, seed=3, training=True)
    widest = batches.widest()
    assert area(widest) == max(map(area, batches.epoch(0)))
    assert widest["targets"].tolist() in [part.tolist() for part in batches.plan(0)]


def test_the_fingerprint_of_ragged_rows_depends_on_their_lengths() -> None:
    def found(lengths: list[int]) -> str:
        rows = Ragged(torch.arange(6), torch.tensor(lengths))
        one = Source({"tokens": rows}, nn.Identity())
        return fingerprint(Splits(one, None, one))["train"]

    assert found([2, 4]) == found([2, 4]) and len({found([2, 4]), found([4, 2]), found([6])}) == 3
