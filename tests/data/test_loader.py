"""Batches of a split: order, augmentation, workers and resuming; and random numbers from keys."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from dltrain.data import loader as module
from dltrain.data.bad_samples import BadSamples
from dltrain.data.loader import Batches, to_device
from dltrain.data.spec import Source
from dltrain.data.splits import permutation
from dltrain.data.worker_pool import leave_cores
from dltrain.datasets.time_series import TimeSeries
from dltrain.errors import ConfigError
from dltrain.keyed_random import draw, key, mix, normal, uniform

COUNT = 103


class Identity(nn.Module):
    def forward(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(rows)


class Noise(nn.Module):
    def forward(self, batch: dict[str, Tensor], keys: Tensor) -> dict[str, Tensor]:
        return {**batch, "inputs": batch["inputs"] + uniform(keys, batch["inputs"].shape[1])}


class Squares:
    def __len__(self) -> int:
        return COUNT

    def example(self, index: int, key: int | None) -> int:
        return index

    def stack(self, examples: list[int]) -> dict[str, Tensor]:
        index = torch.tensor(examples)
        return {"inputs": index[:, None].float() ** 2 * torch.ones(3), "targets": index}


def tensor_source() -> Source:
    return Source(Squares().stack(list(range(COUNT))), Identity(), Noise())


def file_source() -> Source:
    return Source(Squares(), Identity(), Noise())


def concatenate(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([batch[name] for batch in found]) for name in found[0]}


def all_equal(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a
    )


def test_an_epoch_has_every_example_once_and_only_its_last_batch_is_smaller():
    found = list(Batches(tensor_source(), 10, training=True).epoch(4))
    assert [len(batch["targets"]) for batch in found] == [10] * 10 + [3]
    assert sorted(concatenate(found)["targets"].tolist()) == list(range(COUNT))


def test_the_order_of_an_epoch_depends_only_on_seed_and_epoch():
    batches = [Batches(tensor_source(), 10, seed=seed, training=True) for seed in range(3)]
    orders = {(s, e): torch.cat(batches[s].plan(e)) for s in range(3) for e in range(3)}
    assert len({tuple(order.tolist()) for order in orders.values()}) == len(orders)
    torch.manual_seed(99)
    torch.rand(7)
    again = torch.cat(Batches(file_source(), 7, seed=2, training=True).plan(1))
    assert torch.equal(again, orders[2, 1])


def test_evaluation_keeps_the_order_of_the_data_and_does_not_augment():
    found = concatenate(list(Batches(tensor_source(), 10, seed=5)))
    assert torch.equal(found["targets"], torch.arange(COUNT))
    assert torch.equal(found["inputs"], torch.arange(COUNT).float()[:, None] ** 2 * torch.ones(3))


def test_a_subset_is_the_same_for_every_seed_and_epoch_and_keeps_the_order_of_the_data():
    batches = [Batches(make(), 10, seed=seed, sample=25) for make in (tensor_source, file_source) for seed in (0, 1)]
    expected = sorted(permutation(COUNT)[:25].tolist())
    assert all(
        concatenate(list(each.epoch(epoch)))["targets"].tolist() == expected for each in batches for epoch in (0, 3)
    )
    assert all((each.examples, len(each)) == (25, 3) for each in batches)
    assert Batches(tensor_source(), 10, sample=COUNT + 1).examples == COUNT


def test_reading_data_leaves_the_global_generator_unchanged():
    before = torch.random.get_rng_state()
    for source, workers in ((tensor_source(), 0), (file_source(), 0), (file_source(), 1)):
        list(Batches(source, 10, training=True, workers=workers).epoch(1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_batches_are_identical_with_and_without_workers_and_after_resuming():
    source = Source(DecodedNoise(), Identity(), Noise())
    alone, two = (Batches(source, 8, seed=3, training=True, workers=workers) for workers in (0, 2))
    for epoch in (0, 1, 5):
        whole = list(alone.epoch(epoch))
        assert all_equal(list(two.epoch(epoch)), whole)
    assert all_equal(list(two.epoch(5, 5)), whole[5:])
    two.close()


def test_batches_from_files_equal_batches_from_tensors():
    assert all_equal(
        list(Batches(file_source(), 8, training=True).epoch(2)),
        list(Batches(tensor_source(), 8, training=True).epoch(2)),
    )


@pytest.mark.parametrize("make", [tensor_source, file_source])
@pytest.mark.parametrize("chunk", [1, 500, module.CHUNK_BYTES])
def test_an_epoch_resumed_in_the_middle_equals_the_rest_of_the_whole_epoch(make, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    batches = Batches(make(), 8, seed=1, training=True)
    whole = list(batches.epoch(3))
    for start in (0, 1, 6, len(batches) - 1):
        assert all_equal(list(batches.epoch(3, start)), whole[start:])
    assert list(batches.epoch(3, len(batches))) == []


def test_batches_do_not_depend_on_the_size_of_prepared_chunks(monkeypatch):
    large = list(Batches(tensor_source(), 8, training=True).epoch(0))
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    assert all_equal(list(Batches(tensor_source(), 8, training=True).epoch(0)), large)


def test_augmentation_of_an_example_does_not_depend_on_the_batch_size():
    by_index = []
    for size in (7, 64):
        found = concatenate(list(Batches(tensor_source(), size, seed=2, training=True).epoch(6)))
        by_index.append(found["inputs"][found["targets"].argsort()])
    assert torch.equal(*by_index)
    other = concatenate(list(Batches(tensor_source(), 7, seed=2, training=True).epoch(7)))
    assert not torch.equal(other["inputs"][other["targets"].argsort()], by_index[0])


def test_window_views_equal_copies_and_share_the_memory_of_the_series():
    source = TimeSeries(window=20, horizon=5).load().train
    view = source.rows["values"]
    assert view.untyped_storage().nbytes() < view.numel() * view.element_size() / 5
    copied = Source({"values": view.clone()}, source.prepare)
    views, copies = (list(Batches(s, 32, training=True).epoch(0)) for s in (source, copied))
    assert all_equal(views, copies)


def test_a_view_moved_to_a_device_keeps_its_values_and_stays_a_view():
    series = torch.arange(60.0).view(2, 30)
    view = series[:, 4:25].unfold(1, 8, 1).transpose(0, 1)
    moved = to_device(view, torch.device("meta"))
    assert moved.shape == view.shape and moved.stride() == view.stride()
    assert moved.storage_offset() == view.storage_offset()
    assert moved.untyped_storage().nbytes() == series.untyped_storage().nbytes()
    assert torch.equal(series.as_strided(moved.shape, moved.stride(), moved.storage_offset()), view)


def test_channels_last_changes_the_memory_layout_but_not_the_values():
    images = torch.rand(6, 3, 5, 5)
    source = Source({"inputs": images}, Identity())
    found = next(iter(Batches(source, 6, channels_last=True)))["inputs"]
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, images)


def test_uniform_passes_a_kolmogorov_smirnov_test():
    numbers = uniform(mix(torch.arange(20_000) + key(0, 0)), 5)
    assert numbers.min() >= 0 and numbers.max() < 1
    # Kolmogorov-Smirnov: the largest distance from the diagonal stays below 1.95 / sqrt(n) in 999 of 1,000 cases.
    ordered = numbers.flatten().double().sort().values
    steps = torch.arange(len(ordered), dtype=torch.float64) / len(ordered)
    assert (ordered - steps).abs().max() < 1.95 / len(ordered) ** 0.5


def test_uniform_numbers_are_uncorrelated():
    numbers = uniform(mix(torch.arange(20_000) + key(0, 0)), 5).double()
    lanes = torch.corrcoef(numbers.T) - torch.eye(5)
    neighbors = torch.corrcoef(torch.stack([numbers[:-1, 0], numbers[1:, 0]]))[0, 1]
    epochs = torch.stack([uniform(mix(torch.arange(20_000) + key(0, e)), 1)[:, 0].double() for e in range(4)])
    across = torch.corrcoef(epochs) - torch.eye(4)
    bound = 5 / 20_000**0.5
    assert lanes.abs().max() < bound
    assert neighbors.abs() < bound
    assert across.abs().max() < bound


def test_uniform_numbers_depend_on_seed_epoch_and_index():
    def draw(seed: int, epoch: int, index: int) -> tuple[float, ...]:
        return tuple(uniform(mix(torch.tensor([index]) + key(seed, epoch)), 3)[0].tolist())

    draws = {draw(s, e, i) for s in range(4) for e in range(4) for i in range(4)}
    assert len(draws) == 4**3
    assert draw(1, 2, 3) == draw(1, 2, 3)


class Threads(nn.Module):
    def forward(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"inputs": torch.full((len(rows["inputs"]),), torch.get_num_threads())}


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_batches_of_several_examples_are_prepared_with_fewer_threads_if_there_are_workers(three_threads):
    for workers, expected in ((0, 3), (1, 2)):
        batches = Batches(Source(Squares(), Threads()), 51, workers=workers)
        # The last batch has a single example and is prepared with all threads.
        assert [batch["inputs"].unique().tolist() for batch in batches] == [[expected], [expected], [3]]
        assert torch.get_num_threads() == 3
        batches.close()


def test_each_worker_takes_one_thread_but_at_least_one_thread_remains(three_threads):
    for workers, expected in ((0, 3), (1, 2), (2, 1), (5, 1)):
        with leave_cores(workers):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 3


def test_draw_for_one_key_equals_uniform_for_a_tensor_of_keys():
    keys = [0, 1, -1, 2**63 - 1, -(2**63), *mix(torch.arange(50)).tolist()]
    assert [draw(key, 5) for key in keys] == uniform(torch.tensor(keys), 5).tolist()


def test_mix_and_key_equal_published_numbers_of_splitmix64():
    # The first outputs for seed 1234567. Source: Rosetta Code, "Pseudo-random numbers/Splitmix64".
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    seeds = (1234567 + torch.arange(4) * -7046029254386353131).tolist()
    assert [number % 2**64 for number in mix(torch.tensor(seeds)).tolist()] == published
    assert [key(seed) for seed in seeds] == [number % 2**63 for number in published]
    assert key(7, 3) == key(int(mix(torch.tensor(7))) + 3)


class Recorded(Squares):
    """Data set that records the index and key of each decoded example."""

    def __init__(self, broken: tuple[int, ...] = ()) -> None:
        self.broken, self.decoded = broken, list[tuple[int, int | None]]()

    def example(self, index: int, key: int | None) -> int:
        self.decoded.append((index, key))
        if index in self.broken:
            raise ConfigError(f"example {index} cannot be read")
        return index


class DecodedNoise(Squares):
    """Data set whose examples are random numbers drawn from their keys, or zeros without a key."""

    def example(self, index: int, key: int | None) -> tuple[int, list[float]]:
        return index, [0.0] * 3 if key is None else draw(key, 3)

    def stack(self, examples: list[tuple[int, list[float]]]) -> dict[str, Tensor]:
        indices, numbers = zip(*examples, strict=True)
        return {"inputs": torch.tensor(numbers), "targets": torch.tensor(indices)}


class RollBlend(nn.Module):
    """Blend of each example with the previous one in its batch, and of the first with the last."""

    def forward(self, batch: dict[str, Tensor], keys: Tensor) -> dict[str, Tensor]:
        share = uniform(keys, 1)
        return {**batch, "inputs": batch["inputs"].roll(1, 0).lerp(batch["inputs"], share), "share": share[:, 0]}


def add_noise(batch: dict[str, Tensor], keys: Tensor) -> dict[str, Tensor]:
    return {**batch, "corrupted": batch["inputs"] + uniform(keys, 3)}


def test_only_training_examples_get_random_keys_which_change_in_each_epoch():
    files = Recorded()
    list(Batches(Source(files, Identity()), 10).epoch(0))
    assert files.decoded == [(index, None) for index in range(COUNT)]
    keys = []
    for epoch in (0, 1):
        files.decoded.clear()
        list(Batches(Source(files, Identity()), 10, seed=3, training=True).epoch(epoch))
        keys.append(dict(files.decoded))
    assert len({*keys[0].values(), *keys[1].values()}) == 2 * COUNT


def test_random_numbers_in_decoding_differ_between_examples_and_are_drawn_only_in_training():
    source = Source(DecodedNoise(), Identity())
    trained, evaluated = (concatenate(list(Batches(source, 8, training=on).epoch(1)))["inputs"] for on in (True, False))
    assert len(trained.unique(dim=0)) == COUNT
    assert torch.equal(evaluated, torch.zeros(COUNT, 3))


def test_an_unreadable_example_is_skipped_without_decoding_other_examples_twice():
    files, bad = Recorded(broken=(5, 40)), BadSamples("skip")
    found = concatenate(list(Batches(Source(files, Identity()), 10, bad=bad).epoch(0)))
    assert found["targets"].tolist() == [n for n in range(COUNT) if n not in (5, 40)]
    assert [index for index, _ in files.decoded] == list(range(COUNT))
    assert bad.found == ["example 5 cannot be read", "example 40 cannot be read"]


@pytest.mark.parametrize("chunk", [1, module.CHUNK_BYTES])
def test_blending_mixes_only_examples_of_the_same_batch(chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    source = Source(Squares().stack(list(range(COUNT))), Identity(), blend=RollBlend())
    batches = Batches(source, 8, training=True)
    whole = list(batches.epoch(2))
    for batch in whole:
        squares = batch["targets"][:, None].float() ** 2 * torch.ones(3)
        assert torch.equal(batch["inputs"], squares.roll(1, 0).lerp(squares, batch["share"][:, None]))
    assert all_equal(list(batches.epoch(2, 5)), whole[5:])
    assert "share" not in next(iter(Batches(source, 8)))


def test_corruption_is_fixed_in_evaluation_and_changes_with_the_epoch_in_training():
    def noise(seed: int, epoch: int, training: bool, make=tensor_source) -> Tensor:
        batches = Batches(make(), 10, seed=seed, training=training, corrupt=add_noise)
        found = concatenate(list(batches.epoch(epoch)))
        return (found["corrupted"] - found["inputs"])[found["targets"].argsort()]

    held_out = noise(0, 0, False)
    assert torch.equal(held_out, noise(5, 3, False, file_source))
    trained = [noise(0, 0, True), noise(0, 1, True), noise(1, 0, True)]
    assert all(not torch.allclose(a, b, atol=0.1) for a, b in itertools.combinations([held_out, *trained], 2))
    torch.testing.assert_close(noise(0, 1, True, file_source), trained[1])


def test_normal_passes_a_kolmogorov_smirnov_test_and_is_uncorrelated():
    numbers = normal(mix(torch.arange(20_000)), 3).double()
    assert torch.allclose(numbers.mean(0), torch.zeros(3, dtype=torch.double), atol=0.03)
    ordered = torch.special.ndtr(numbers.flatten()).sort().values
    steps = torch.arange(len(ordered), dtype=torch.float64) / len(ordered)
    assert (ordered - steps).abs().max() < 1.95 / len(ordered) ** 0.5
    assert (torch.corrcoef(numbers.T) - torch.eye(3)).abs().max() < 5 / 20_000**0.5
