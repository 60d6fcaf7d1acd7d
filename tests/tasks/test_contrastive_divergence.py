"""Contrastive divergence, compared with its formula, and likelihoods of RBMs, compared with sums over all states."""

import functools
import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, nn

from dltrain.config import compose
from dltrain.errors import ConfigError
from dltrain.loggers.console import Console
from dltrain.models.rbm import RBM
from dltrain.runs import assemble, dry_run, launch
from dltrain.tasks import rbm
from dltrain.tasks.base import Batch, GenerateRequest
from dltrain.tasks.contrastive_divergence import ContrastiveDivergence

CPU = torch.device("cpu")


def random_rbm(visible: int = 6, hidden: int = 4, seed: int = 0) -> RBM:
    """Return an RBM with weights and biases far from 0."""
    torch.manual_seed(seed)
    model = RBM(visible, hidden)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.8)
    return model


def parameters_of(model: RBM) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weight (visible, hidden), visible biases and hidden biases."""
    weight, hidden, visible = (p.detach().double().numpy() for p in (model.up.weight, model.up.bias, model.down.bias))
    return weight.T, visible, hidden


def all_states(units: int) -> np.ndarray:
    return np.array(list(itertools.product((0.0, 1.0), repeat=units)))


def unnormalized(model: RBM) -> np.ndarray:
    """Return exp(-E(v, h)) for all states, with a row for each visible state and a column for each hidden state."""
    weight, b, c = parameters_of(model)
    v, h = all_states(len(b)), all_states(len(c))
    return np.exp(v @ weight @ h.T + (v @ b)[:, None] + h @ c)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def random_states(count: int, units: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, units, generator=Generator().manual_seed(seed)).round()


# --- probabilities compared with sums over all states ----------------------------------------------------------------


def test_the_free_energy_equals_a_sum_over_all_hidden_states() -> None:
    model = random_rbm()
    expected = -np.log(unnormalized(model).sum(1))
    found = rbm.free_energy(model, torch.tensor(all_states(6)).float())
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("visible", "hidden"), [(6, 4), (4, 6), (5, 5)])
def test_the_partition_function_equals_a_sum_over_all_states(visible: int, hidden: int) -> None:
    model = random_rbm(visible, hidden)
    assert rbm.log_partition(model).item() == pytest.approx(np.log(unnormalized(model).sum()), abs=1e-4)


def test_the_partition_function_of_many_states_is_summed_in_chunks() -> None:
    model = random_rbm(40, 13)
    assert rbm.STATES_AT_ONCE < 2**13
    weight, b, c = parameters_of(model)
    h = all_states(13)
    terms = h @ c + np.logaddexp(0, h @ weight.T + b).sum(1)
    assert rbm.log_partition(model).item() == pytest.approx(np.logaddexp.reduce(terms), rel=1e-5)


def test_the_pseudo_likelihood_of_few_units_is_exact() -> None:
    model, v = random_rbm(7, 4), random_states(5, 7)
    weight, b, c = parameters_of(model)
    energy = lambda x: -x @ b - np.logaddexp(0, x @ weight + c).sum(-1)  # noqa: E731
    x, expected = v.double().numpy(), 0.0
    for unit in range(7):
        flipped = x.copy()
        flipped[:, unit] = 1 - flipped[:, unit]
        expected = expected + np.log(sigmoid(energy(flipped) - energy(x)))
    found = rbm.pseudo_log_likelihood(model, v, Generator().manual_seed(0))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4)


def test_the_pseudo_likelihood_of_many_units_is_estimated_without_bias() -> None:
    model, v, noise = random_rbm(20, 4), random_states(3, 20), Generator().manual_seed(0)
    exact = rbm.pseudo_log_likelihood(model, v, noise) * 0
    energy = rbm.free_energy(model, v)
    for unit in range(20):
        flipped = v.clone()
        flipped[:, unit] = 1 - flipped[:, unit]
        exact = exact + nn.functional.logsigmoid(rbm.free_energy(model, flipped) - energy)
    draws = torch.stack([rbm.pseudo_log_likelihood(model, v, noise) for _ in range(400)]).detach()
    assert draws.std(0).min() > 0
    torch.testing.assert_close(draws.mean(0), exact.detach(), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("noise", [None, Generator().manual_seed(0)])
def test_gibbs_chains_converge_to_the_distribution_of_the_model(noise: Generator | None) -> None:
    model = random_rbm(3, 2, seed=1)
    torch.manual_seed(0)
    found = rbm.gibbs(model, random_states(20_000, 3), 30, noise)
    state_indices = (found @ torch.tensor([4.0, 2.0, 1.0])).long()
    shares = torch.bincount(state_indices, minlength=8) / 20_000
    expected = unnormalized(model).sum(1)
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.015)


# --- the update -----------------------------------------------------------------------------------------------------


def expected_updates(model: RBM, v0: np.ndarray, vk: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the differences in <v h>, <v> and <h> between data and chains, computed with p(h = 1 | v)."""
    weight, _, c = parameters_of(model)
    p0, pk = sigmoid(v0 @ weight + c), sigmoid(vk @ weight + c)
    return v0.T @ p0 / len(v0) - vk.T @ pk / len(vk), v0.mean(0) - vk.mean(0), p0.mean(0) - pk.mean(0)


def numpy_gibbs(model: RBM, v: np.ndarray, steps: int) -> np.ndarray:
    """Run Gibbs steps with probabilities computed by NumPy and samples drawn by torch.bernoulli."""
    weight, b, c = parameters_of(model)
    drawn = lambda shares: torch.bernoulli(torch.tensor(shares).float()).double().numpy()  # noqa: E731
    for _ in range(steps):
        v = drawn(sigmoid(drawn(sigmoid(v @ weight + c)) @ weight.T + b))
    return v


@pytest.mark.parametrize("steps", [1, 3])
def test_the_contrastive_divergence_update_equals_the_formula(steps: int) -> None:
    model, rate = random_rbm(), 0.1
    task = ContrastiveDivergence([1, 2, 3], [-2.0], [2.0], cd_steps=steps)
    v0 = random_states(5, 6)
    before = [value.copy() for value in parameters_of(model)]
    torch.manual_seed(7)
    vk = numpy_gibbs(model, v0.double().numpy(), steps)
    updates = expected_updates(model, v0.double().numpy(), vk)
    assert np.abs(updates[0]).max() > 0.05
    torch.manual_seed(7)
    loss = task.loss(model, {"inputs": 4 * v0.view(5, 1, 2, 3) - 2}, 0.0)
    loss.total.backward()
    torch.optim.SGD(model.parameters(), lr=rate).step()
    for after, start, update in zip(parameters_of(model), before, updates, strict=True):
        np.testing.assert_allclose(after - start, rate * update, atol=1e-6)
    assert loss.weight == 5


def test_persistent_chains_continue_from_their_states() -> None:
    model = random_rbm()
    chains, first, second = rbm.GibbsChains(1, persistent=True), random_states(5, 6), random_states(3, 6, seed=1)
    torch.manual_seed(7)
    once = numpy_gibbs(model, first.double().numpy(), 1)
    twice = numpy_gibbs(model, once, 1)
    updates = expected_updates(model, second.double().numpy(), twice)
    torch.manual_seed(7)
    chains.loss(model, first)
    assert chains.visible is not None and np.array_equal(chains.visible, once)
    chains.loss(model, second).total.backward()
    assert np.array_equal(chains.visible, twice)
    np.testing.assert_allclose(model.up.weight.grad.T, -updates[0], atol=1e-6)


def test_a_larger_batch_continues_all_persistent_chains_and_starts_new_ones_at_the_data() -> None:
    model, chains = random_rbm(), rbm.GibbsChains(1, persistent=True)
    first, second = random_states(3, 6), random_states(5, 6, seed=1)
    torch.manual_seed(7)
    once = numpy_gibbs(model, first.double().numpy(), 1)
    twice = numpy_gibbs(model, np.concatenate([once, second.double().numpy()[3:]]), 1)
    torch.manual_seed(7)
    chains.loss(model, first)
    chains.loss(model, second)
    assert np.array_equal(chains.visible, twice)


def test_chains_that_are_not_persistent_keep_no_state() -> None:
    chains = rbm.GibbsChains(1, persistent=False)
    chains.loss(random_rbm(), random_states(5, 6))
    assert chains.visible is None


# --- training -------------------------------------------------------------------------------------------------------

PATTERNS = np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1, 1]])


@pytest.fixture(scope="module")
def bar_overrides(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Return a function that appends its arguments to the overrides for an RBM on 3x3 images with one white row."""
    x = np.tile(PATTERNS, (40, 1)).reshape(-1, 3, 3).astype(np.uint8) * 255
    y = np.tile(np.arange(3), 40)
    path = tmp_path_factory.mktemp("bars") / "bars.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    data = ["data=npz", f"data.path={path}", "data.batch_size=12"]
    common = ["model=rbm", "model.hidden_size=6", *data, "optimizer=sgd", "optimizer.lr=0.1", "device=cpu"]
    common += ["trainer.log_media=false"]
    return lambda *more: [*common, f"hydra.run.dir={tmp_path_factory.mktemp('bars') / 'run'}", *more]


@pytest.fixture(scope="module")
def trained(bar_overrides: Callable[..., list[str]]) -> Callable[..., tuple[compose.Job, launch.Outcome]]:
    """Return a function that trains an RBM with the given task options and caches the result."""

    @functools.cache
    def train(*options: str) -> tuple[compose.Job, launch.Outcome]:
        schedule = ["trainer.epochs=100", "optimizer/schedule=cosine", "trainer.eval_every=20 epochs"]
        schedule += ["trainer.checkpoint_every=20 epochs"]
        job = compose.compose(bar_overrides(*schedule, *options))
        return job, launch.train(job, Console(), 0.0)

    return train


def exact_nll(state: dict[str, torch.Tensor]) -> float:
    """Return the mean negative log-likelihood of the patterns, computed with sums over all states."""
    model = RBM(9, 6)
    model.load_state_dict(state)
    shares = unnormalized(model)
    where = PATTERNS @ (2 ** np.arange(8, -1, -1))
    return float(np.mean(np.log(shares.sum()) - np.log(shares.sum(1)[where])))


@pytest.mark.parametrize(
    "options",
    [
        ("task.cd_steps=5",),
        pytest.param((), marks=pytest.mark.slow),
        pytest.param(("task.persistent=true",), marks=pytest.mark.slow),
    ],
    ids=["CD-5", "CD-1", "PCD"],
)
def test_the_likelihood_improves_and_the_logged_value_is_exact(
    trained: Callable[..., tuple[compose.Job, launch.Outcome]], options: tuple[str, ...]
) -> None:
    job, outcome = trained(*options)
    start = exact_nll(assemble.build_components(job).model.state_dict())
    assert outcome.exit_code == 0
    last = torch.load(outcome.folder / "checkpoints" / "last.pt", weights_only=True)
    logged = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    nll = [line["nll"] for line in logged if line["split"] == "val"]
    assert start == pytest.approx(9 * np.log(2), abs=0.1)
    assert np.log(3) < exact_nll(last["model"]) < 0.5 * start
    # exact_nll assumes that the patterns are equally frequent. In the validation split they are not.
    assert nll[-1] < 0.5 * start and len(nll) == 5
    best = torch.load(outcome.folder / "checkpoints" / "best.pt", weights_only=True)
    assert outcome.result["test"]["nll"] == pytest.approx(exact_nll(best["model"]), abs=1e-3)


def test_evaluation_and_generation_are_reproducible_and_leave_torchs_random_state_unchanged(
    bar_overrides: Callable[..., list[str]],
) -> None:
    components = assemble.build_components(compose.compose(bar_overrides("task.persistent=true")))
    batches = dry_run.build_batches(components, components.data.load())
    with torch.inference_mode():
        before = torch.get_rng_state()
        first, second = (components.task.evaluate(components.model, batches["val"]) for _ in range(2))
        shown = [[item.image for item in components.task.show(components.model, first)] for _ in range(2)]
        frames = [components.task.frame(components.model) for _ in range(2)]
        samples = [
            components.task.generate(components.model, GenerateRequest(5, Generator().manual_seed(3), CPU))
            for _ in range(2)
        ]
    assert first.metrics == second.metrics
    assert all(torch.equal(one, other) for one, other in zip(*shown, strict=True)) and len(shown[0]) == 3
    assert torch.equal(*frames) and frames[0].dtype == torch.uint8 and frames[0].shape[0] == 3
    assert torch.equal(*samples) and samples[0].shape == (5, 1, 3, 3)
    assert samples[0].min() >= 0 and samples[0].max() <= 1
    assert torch.equal(before, torch.get_rng_state())
    assert components.task.state_dict()["chains"] is None


def test_a_trained_rbm_generates_and_reconstructs_its_patterns(
    trained: Callable[..., tuple[compose.Job, launch.Outcome]],
) -> None:
    job, outcome = trained("task.cd_steps=5")
    components = assemble.build_components(job)
    components.model.load_state_dict(torch.load(outcome.folder / "checkpoints" / "last.pt", weights_only=True)["model"])
    with torch.inference_mode():
        request = GenerateRequest(200, Generator().manual_seed(0), CPU)
        samples = components.task.generate(components.model, request).flatten(1).round()
        given = torch.tensor(PATTERNS).float().view(3, 1, 3, 3) * 2 - 1
        reconstructed = components.task.generate(components.model, GenerateRequest(3, Generator(), CPU, given=given))
    hits = (samples[:, None] == torch.tensor(PATTERNS)).all(2)
    assert hits.any(1).float().mean() > 0.7
    assert (hits.sum(0) > 20).all(), "every pattern must be generated"
    assert (reconstructed.flatten(1).round() == torch.tensor(PATTERNS)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"label": 3}, "--class: not supported because"), ({"interpolate": True}, "not supported for RBMs")],
)
def test_an_unsupported_request_is_rejected(options: dict[str, Any], message: str) -> None:
    task = ContrastiveDivergence([1, 2, 3], [0.0], [1.0])
    with pytest.raises(ConfigError, match=message):
        task.generate(random_rbm(), GenerateRequest(4, Generator(), CPU, **options))


def test_a_model_that_is_not_an_rbm_is_rejected() -> None:
    with pytest.raises(ConfigError, match="such as rbm"):
        ContrastiveDivergence([1, 2, 3], [0.0], [1.0]).stages(nn.Linear(6, 2))


def test_likelihoods_are_computed_in_fp32_under_bfloat16_autocast(bar_overrides: Callable[..., list[str]]) -> None:
    components = assemble.build_components(compose.compose(bar_overrides()))
    nn.init.normal_(components.model.up.weight, std=0.5)
    batches: list[Batch] = list(dry_run.build_batches(components, components.data.load())["val"])
    score = functools.partial(components.task.evaluate, components.model, batches)
    with torch.inference_mode():
        exact = score().metrics["nll"]
        with torch.autocast("cpu", torch.bfloat16):
            assert score().metrics["nll"] == pytest.approx(exact, abs=1e-5)
