"""The adding problem and the copying problem, compared with their definitions."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.data.spec import Splits
from dltrain.datasets.memory_problems import AddingProblem, CopyMemory
from dltrain.errors import ConfigError


def whole(splits: Splits) -> dict[str, Tensor]:
    """Return the examples of all three splits as one batch."""
    batches = [next(iter(Batches(s, 10_000))) for s in (splits.train, splits.val, splits.test)]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize("steps", [2, 7, 50])
def test_the_target_of_the_adding_problem_is_the_sum_of_one_number_from_each_half(steps: int) -> None:
    data = whole(AddingProblem(sequences=2000, steps=steps).load())
    numbers, marks = data["inputs"].unbind(2)
    assert data["inputs"].shape == (2000, steps, 2) and set(marks.unique().tolist()) <= {0.0, 1.0}
    half = steps // 2
    assert (marks[:, :half].sum(1) == 1).all() and (marks[:, half:].sum(1) == 1).all()
    torch.testing.assert_close((numbers * marks).sum(1, keepdim=True), data["targets"])
    assert numbers.min() >= 0 and numbers.max() < 1
    # Standard deviations of the means over 2,000 sequences: sqrt(1/6/2000) = 0.009 and 0.2/sqrt(2000) = 0.004.
    assert data["targets"].mean().item() == pytest.approx(1, abs=0.04)
    assert (data["targets"] - 1).square().mean().item() == pytest.approx(1 / 6, abs=0.02)
    assert (marks.sum(0) > 0).all(), "every step is marked in some sequence"


def test_the_targets_of_the_copying_problem_are_the_symbols_after_the_delay() -> None:
    data = whole(CopyMemory(sequences=500, delay=6, items=3, symbols=4).load())
    assert data["inputs"].shape == data["targets"].shape == (500, 6 + 2 * 3)
    for row, target in zip(data["inputs"].tolist(), data["targets"].tolist(), strict=True):
        symbols = row[:3]
        assert set(symbols) <= {2, 3, 4, 5}
        assert row[3:] == [0, 0, 0, 0, 0, 1, 0, 0, 0]  # the delay ends with the delimiter
        assert target == [0] * 9 + symbols
    counts = data["inputs"][:, :3].flatten().bincount(minlength=6)
    assert counts[2:].min() > 300, "each of the 4 symbols has an expected count of 375"


def test_the_loss_of_predictions_without_memory_equals_its_formula() -> None:
    delay, items, symbols = 20, 10, 8
    targets = whole(CopyMemory(sequences=40, delay=delay, items=items, symbols=symbols).load())["targets"]
    logits = torch.full((*targets.shape, symbols + 2), -1e4)
    logits[:, : delay + items, 0] = 0
    logits[:, delay + items :, 2:] = 0
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    assert loss == pytest.approx(items * math.log(symbols) / (delay + 2 * items))
    assert loss == pytest.approx(10 * math.log(8) / 40)


@pytest.mark.parametrize("make", [AddingProblem, CopyMemory])
def test_splits_have_90_5_and_5_percent_of_the_sequences_and_no_sequence_repeats(make: type) -> None:
    splits = make(sequences=400).load()
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [360, 20, 20]
    assert len(torch.unique(whole(splits)["inputs"].flatten(1), dim=0)) == 400


def test_texts_to_copy_are_read_and_the_error_for_a_wrong_letter_or_length_names_the_line(tmp_path) -> None:
    data = CopyMemory(sequences=40, items=3, symbols=4)
    (read,) = data.inputs(InputFiles((), "abd"))
    assert read.rows["symbols"].tolist() == [[2, 3, 5]]
    (tmp_path / "a.txt").write_text("abd\ncaz\n")
    with pytest.raises(ConfigError, match=r"INPUT 1: expected 3 letters from a to d in line 2 of .*a.txt, got caz"):
        list(data.inputs(InputFiles((str(tmp_path / "a.txt"),))))
    (tmp_path / "b.txt").write_text("abda\n")
    with pytest.raises(ConfigError, match=r"expected 3 letters .* in line 1"):
        list(data.inputs(InputFiles((str(tmp_path / "b.txt"),))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AddingProblem(steps=1), r"data\.steps: expected .*at least 2, got 1"),
        (lambda: CopyMemory(delay=0), r"data\.delay"),
        (lambda: CopyMemory(items=0), r"data\.items"),
        (lambda: CopyMemory(symbols=27), r"data\.symbols: expected a whole number from 2 to 26, got 27"),
    ],
)
def test_a_size_outside_its_range_is_rejected_with_its_key(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
