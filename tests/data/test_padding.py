"""The fraction of padding in batches of examples of similar length, for lengths as in real texts and recordings."""

import itertools

import pytest
import torch
from torch import Generator, Tensor, nn

from dltrain.data.loader import Batches
from dltrain.data.plans import JITTER, ByLength, divide_batches
from dltrain.data.ragged import Ragged
from dltrain.data.spec import Source


def log_normal(count: int, median: float, spread: float, seed: int = 0) -> Tensor:
    """Draw log-normal lengths of at least 1; `spread` is the standard deviation of their logarithms."""
    noise = torch.randn(count, generator=Generator().manual_seed(seed))
    return (median * (spread * noise).exp()).round().long().clamp(min=1)


def pairs(count: int) -> Tensor:
    """Draw similar lengths for sentences and their translations."""
    first = log_normal(count, 16, 0.45)
    return torch.stack([first, (first * (log_normal(count, 100, 0.2, 1) / 100)).round().long().clamp(min=1)], dim=1)


# Lengths, examples per batch, and jitter in training.
DISTRIBUTIONS = {
    "many sentences": (log_normal(5000, 20, 0.6), 64, 0.0),
    "few sentences": (log_normal(600, 20, 0.6), 32, 0.0),
    "documents": (log_normal(1500, 180, 0.9), 16, 0.0),
    "recordings": (log_normal(445, 75, 0.8), 16, JITTER),
    "very few recordings": (log_normal(56, 75, 0.8), 16, JITTER),
    "pairs": (pairs(3000), 32, JITTER),
    "few pairs": (pairs(900), 32, JITTER),
    "one long example": (torch.tensor([2000, *[20] * 500]), 64, 0.0),
}


def batches_of(name: str, training: bool) -> Batches:
    lengths, size, jitter = DISTRIBUTIONS[name]
    columns = lengths.view(len(lengths), -1).unbind(1)
    rows = {f"field{n}": Ragged(torch.zeros(int(own.sum())), own) for n, own in enumerate(columns)}
    return Batches(Source(rows, nn.Identity(), plan=ByLength(lengths, jitter=jitter)), size, training=training)


def share(lengths: Tensor, plan: list[Tensor]) -> float:
    """Return the fraction of padding if each batch of a plan is padded to its longest example."""
    lengths = lengths.view(len(lengths), -1)
    padded = sum(len(part) * int(lengths[part].max(0).values.sum()) for part in plan)
    return 1 - int(lengths.sum()) / padded


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_batches_of_similar_lengths_have_at_most_5_percent_padding(name: str, training: bool) -> None:
    batches, (lengths, size, _) = batches_of(name, training), DISTRIBUTIONS[name]
    plans = [batches.plan(epoch) for epoch in range(2 if training else 1)]
    for plan in plans:
        assert share(lengths, plan) <= 0.05
        assert torch.equal(torch.cat(plan).sort().values, torch.arange(len(lengths)))
        assert max(map(len, plan)) <= size and len(plan) == len(batches.sizes)
    assert batches.padding == pytest.approx(share(lengths, plans[0]))


@pytest.mark.parametrize("name", ["recordings", "few pairs"])
def test_jitter_makes_the_batches_of_two_epochs_differ_more(name: str) -> None:
    lengths, size, jitter = DISTRIBUTIONS[name]
    repeated = []
    for each in (0.0, jitter):
        plan, mates = ByLength(lengths, jitter=each), []
        for epoch in (0, 1):
            parts = plan(torch.arange(len(lengths)), size, Generator().manual_seed(epoch))
            mates.append({pair for part in parts for pair in itertools.combinations(sorted(part.tolist()), 2)})
        repeated.append(len(mates[0] & mates[1]) / len(mates[0]))
    assert repeated[1] < 0.85 * repeated[0]


def test_few_batches_are_added_to_reduce_padding() -> None:
    lengths = log_normal(445, 75, 0.8).sort(descending=True).values[:, None]
    sizes = [*[16] * 27, 13]
    divided = divide_batches(lengths, sizes)
    ends = list(itertools.accumulate(divided))
    assert set(itertools.accumulate(sizes)) <= set(ends) and len(divided) <= 1.5 * len(sizes)
    assert share(lengths, list(torch.arange(445).split(divided))) <= 0.04
    assert divide_batches(lengths, [1] * 445) == [1] * 445 and divide_batches(lengths[:0], []) == []


def test_a_batch_is_divided_at_the_position_that_saves_most_padding() -> None:
    widths = torch.tensor([[9, 1], [9, 2], [2, 9], [2, 8], [1, 9], [1, 9]])
    sizes = {cut: [cut, 6 - cut] for cut in range(1, 6)}
    kept = {cut: share(widths, list(torch.arange(6).split(parts))) for cut, parts in sizes.items()}
    divided = divide_batches(widths, [6])
    assert divided[0] == min(kept, key=lambda cut: kept[cut]) == 2


def test_evaluation_batches_are_in_order_of_their_first_examples_and_have_the_position_of_each_example() -> None:
    lengths = log_normal(300, 20, 0.6)
    rows = {"inputs": Ragged(torch.arange(300).repeat_interleave(lengths), lengths)}
    source = Source(rows, nn.Identity(), plan=ByLength(lengths))
    for sample in (None, 100):
        batches = Batches(source, 16, sample=sample)
        found = list(batches)
        kept = torch.cat(batches.plan(0)).sort().values
        firsts = [int(batch["position"][0]) for batch in found]
        assert firsts == sorted(firsts) and firsts[0] == 0
        for batch in found:
            assert batch["position"].tolist() == batch["position"].sort().values.tolist()
            assert batch["inputs"][:, 0].tolist() == kept[batch["position"]].tolist()
    assert "position" not in next(iter(Batches(source, 16, training=True).epoch(0)))
