"""Autoencoders, compared with principal components of scikit-learn and the Jacobian of torch.func."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from task_examples import evaluate, fit, in_batches, normal, request
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.data.loader import Batches
from dltrain.data.spec import Source
from dltrain.errors import ConfigError
from dltrain.keyed_random import mix
from dltrain.metrics.running import Covariance
from dltrain.models.autoencoders import ConvAutoencoder, DenseAutoencoder
from dltrain.tasks.base import GenerateRequest
from dltrain.tasks.reconstruction import Reconstruction, sparsity_divergence, squared_jacobian

IMAGE = {"shape": [1, 6, 6], "size": 36, "low": [-1.0], "high": [3.0]}
LATENT = 3


def images(count: int, seed: int = 0) -> Tensor:
    """Return random model inputs, where -1 is black and 3 is white."""
    return 4 * torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) - 1


def correlated(count: int) -> Tensor:
    """Return examples of ten numbers that vary in five directions only."""
    return normal(count, 5) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2]) @ torch.linalg.qr(normal(10, 5, seed=1)).Q.T + 2


def network(**changes: Any) -> DenseAutoencoder:
    torch.manual_seed(0)
    return DenseAutoencoder([1, 6, 6], 1, **{"hidden_size": 16, "latent": LATENT, **changes})


# --- the distance ---------------------------------------------------------------------------------------------------


def test_the_loss_is_the_squared_distance_of_pixels_scaled_to_the_range_0_to_1() -> None:
    x, model = images(7), network()
    loss = Reconstruction(**IMAGE).loss(model, {"inputs": x}, 0.0)
    by_hand = sum(((model(row[None])[0].sigmoid() - (row + 1) / 4) ** 2).sum() for row in x) / 7
    torch.testing.assert_close(loss.total, by_hand)
    assert loss.weight == 7 and loss.parts == {}


def test_the_cross_entropy_of_pixels_equals_torch() -> None:
    x, model = images(7), network()
    loss = Reconstruction(**IMAGE, distance="bernoulli").loss(model, {"inputs": x}, 0.0)
    torch.testing.assert_close(7 * loss.total, F.binary_cross_entropy(model(x).sigmoid(), (x + 1) / 4, reduction="sum"))


def test_metrics_are_means_over_examples_even_with_a_short_last_batch() -> None:
    x, model = images(37), network()
    metrics = evaluate(Reconstruction(**IMAGE), model, x).metrics
    error = (model(x).sigmoid() - (x + 1) / 4).detach().numpy() ** 2
    assert metrics == pytest.approx({"loss": error.sum((1, 2, 3)).mean(), "mse": error.mean()}, rel=1e-5)


# --- principal components -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 7, 10])
def test_the_residual_of_principal_components_equals_scikit_learn(count: int) -> None:
    x = normal(60, 10) @ normal(10, 10, seed=1) + 5
    found = Covariance()
    for rows in x.split(25):
        found.add(rows)
    pca = PCA(count).fit(x.numpy())
    error = x.numpy() - pca.inverse_transform(pca.transform(x.numpy()))
    assert found.residual(count) == pytest.approx((error**2).sum(1).mean(), rel=1e-4, abs=1e-6)


def test_a_linear_autoencoder_reaches_the_residual_of_the_principal_components() -> None:
    x, task = correlated(200), Reconstruction([10], 10)
    torch.manual_seed(0)
    model = DenseAutoencoder([10], 1, hidden_size=[], latent=2)
    fit(model, task, {"inputs": x}, 400, 0.04)
    evaluation = evaluate(task, model, x)
    pca = PCA(2).fit(x.numpy())
    least = ((x.numpy() - pca.inverse_transform(pca.transform(x.numpy()))) ** 2).sum(1).mean()
    assert evaluation.baselines["2 principal components"] == pytest.approx({"loss": least, "mse": least / 10}, rel=1e-4)
    assert 0.999 * least < evaluation.metrics["loss"] < 1.01 * least


def test_examples_with_more_than_2048_numbers_have_no_baseline() -> None:
    x, model = normal(3, 2_049), DenseAutoencoder([2_049], 1, hidden_size=[], latent=2)
    assert evaluate(Reconstruction([2_049], 2_049), model, x).baselines == {}


# --- corruption -----------------------------------------------------------------------------------------------------


def corrupted(unit: Tensor, **changes: Any) -> Tensor:
    """Return examples of 50 numbers after corruption, (examples, 50)."""
    task = Reconstruction([50], 50, low=[0.0], high=[1.0], **changes)
    return task.corrupt({"inputs": unit}, mix(torch.arange(len(unit))))["corrupted"].flatten(1)


def test_masking_sets_the_configured_fraction_of_values_to_black() -> None:
    unit = torch.rand(400, 1, 1, 50) + 0.5
    found = corrupted(unit, corruption="masking", amount=0.3)
    unit = unit.flatten(1)
    assert float((found == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(found[found != 0], unit[found != 0])


def test_salt_and_pepper_noise_has_equally_many_black_and_white_pixels() -> None:
    found = corrupted(torch.full((400, 1, 1, 50), 0.5), corruption="salt_and_pepper", amount=0.4)
    shares = [float((found == value).float().mean()) for value in (0, 1, 0.5)]
    assert shares == pytest.approx([0.2, 0.2, 0.6], abs=0.02)


def test_gaussian_noise_has_the_requested_standard_deviation() -> None:
    noise = corrupted(torch.zeros(400, 1, 1, 50), corruption="gaussian", amount=0.7)
    assert (float(noise.mean()), float(noise.std())) == pytest.approx((0, 0.7), abs=0.02)


@pytest.mark.parametrize("corruption", ["gaussian", "masking", "salt_and_pepper"])
def test_the_model_reads_corrupted_examples_and_the_targets_are_clean(corruption: str) -> None:
    x, read, model = images(9), [], network()
    task = Reconstruction(**IMAGE, corruption=corruption, amount=0.5)
    model.encoder.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    batch = task.corrupt({"inputs": x}, mix(torch.arange(9)))
    loss = task.loss(model, batch, 0.0)
    assert torch.equal(batch["inputs"], x)
    assert torch.equal(read[0], batch["corrupted"]) and not torch.equal(read[0], x)
    decoded = model.decoder(model.encoder(read[0])).sigmoid()
    torch.testing.assert_close(loss.total, (decoded - (x + 1) / 4).square().sum() / 9)


def test_evaluation_with_corruption_does_not_depend_on_seed_or_batch_size() -> None:
    x, model = images(40), network()
    task = Reconstruction(**IMAGE, corruption="masking", amount=0.5)
    before = torch.get_rng_state()
    found = [
        Batches(Source({"inputs": x}, nn.Identity()), size, seed=seed, corrupt=task.corrupt)
        for seed, size in ((0, 40), (1, 40), (0, 7))
    ]
    with torch.inference_mode():
        one, other, cut = (task.evaluate(model, batches) for batches in found)
    assert one.metrics == other.metrics
    assert cut.metrics == pytest.approx(one.metrics, rel=1e-6)
    assert one.metrics["loss"] != pytest.approx(36 * one.metrics["mse"], rel=1e-4), (
        "mse must be computed without corruption"
    )
    shown = [task.show(model, evaluation) for evaluation in (one, other)]
    assert [item.tag for item in shown[0]] == ["reconstructions", "codes"]
    assert all(torch.equal(a.image, b.image) for a, b in zip(*shown, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


# --- penalties ------------------------------------------------------------------------------------------------------


def test_the_sparsity_penalty_equals_the_formula() -> None:
    means, target = [0.05, 0.5, 0.9], 0.05
    by_hand = sum(
        target * math.log(target / mean) + (1 - target) * math.log((1 - target) / (1 - mean)) for mean in means
    )
    assert float(sparsity_divergence(torch.tensor(means), target)) == pytest.approx(by_hand, rel=1e-6)
    assert float(sparsity_divergence(torch.tensor([0.05]), target)) == pytest.approx(0, abs=1e-9)
    assert torch.isfinite(sparsity_divergence(torch.tensor([0.0, 1.0]), target))


def test_the_sparsity_penalty_is_computed_from_the_mean_activity_of_the_batch() -> None:
    x, model = images(9), network()
    task = Reconstruction(**IMAGE, code="sigmoid", sparsity=3.0, sparsity_target=0.1)
    loss = task.loss(model, {"inputs": x}, 0.0)
    code = model.encoder(x).sigmoid()
    torch.testing.assert_close(loss.parts["sparsity"], 3 * sparsity_divergence(code.mean(0), 0.1))
    distance = (model.decoder(code).sigmoid() - (x + 1) / 4).square().sum() / 9
    torch.testing.assert_close(loss.parts["reconstruction"], distance)
    torch.testing.assert_close(loss.total, distance + loss.parts["sparsity"])


def test_training_brings_the_mean_activity_close_to_the_sparsity_target() -> None:
    x, model = images(64), network(latent=10)
    task = Reconstruction(**IMAGE, code="sigmoid", sparsity=3.0, sparsity_target=0.1)
    fit(model, task, {"inputs": x}, 200, 0.01)
    assert model.encoder(x).sigmoid().mean(0).tolist() == pytest.approx([0.1] * 10, abs=0.05)


def test_the_l1_penalty_is_the_sum_of_absolute_code_values_averaged_over_examples() -> None:
    x, model = images(9), network()
    loss = Reconstruction(**IMAGE, latent_l1=0.5).loss(model, {"inputs": x}, 0.0)
    torch.testing.assert_close(loss.parts["latent_l1"], 0.5 * model.encoder(x).abs().sum() / 9)


def smooth(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "dense":
        return DenseAutoencoder([1, 6, 6], 1, hidden_size=8, latent=4, activation="tanh").double()
    return ConvAutoencoder(1, 6, 6, 1, hidden_size=[4], latent=4, activation="tanh").double()


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_the_contraction_penalty_and_its_gradient_match_torch_func_jacrev(kind: str) -> None:
    x, model = images(5).double(), smooth(kind)

    def code(row: Tensor) -> Tensor:
        return model.encoder(row[None])[0].sigmoid()

    expected = torch.stack([torch.func.jacrev(code)(row).square().sum() for row in x])
    leaf = x.clone().requires_grad_()
    found = squared_jacobian(model.encoder(leaf).sigmoid(), leaf)
    torch.testing.assert_close(found, expected)
    weights = list(model.encoder.parameters())
    for one, other in zip(
        torch.autograd.grad(found.sum(), weights, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(expected.sum(), weights, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_the_contraction_penalty_equals_finite_differences() -> None:
    x, model, step = images(3).double(), smooth("dense"), 1e-6
    leaf = x.clone().requires_grad_()
    found = squared_jacobian(model.encoder(leaf), leaf)
    total = torch.zeros(3, dtype=torch.double)
    for pixel in range(36):
        moved = x.clone().flatten(1)
        moved[:, pixel] += step
        slope = (model.encoder(moved.view_as(x)) - model.encoder(x)) / step
        total += slope.square().sum(1).detach()
    torch.testing.assert_close(found, total, rtol=1e-5, atol=1e-8)


def test_the_contraction_penalty_is_added_to_the_loss_and_trains_the_encoder() -> None:
    x, model = images(6), network(activation="tanh")
    loss = Reconstruction(**IMAGE, code="sigmoid", contraction=0.2).loss(model, {"inputs": x}, 0.0)
    leaf = x.clone().requires_grad_()
    penalty = 0.2 * squared_jacobian(model.encoder(leaf).sigmoid(), leaf).mean()
    torch.testing.assert_close(loss.parts["contraction"], penalty)
    torch.testing.assert_close(loss.total, loss.parts["reconstruction"] + penalty)
    plain = Reconstruction(**IMAGE, code="sigmoid").loss(model, {"inputs": x}, 0.0).total
    torch.testing.assert_close(loss.parts["reconstruction"], plain)
    first = next(model.encoder.parameters())
    assert not torch.equal(*(torch.autograd.grad(total, first)[0] for total in (loss.total, plain)))


@pytest.mark.slow
def test_the_contraction_penalty_is_the_same_for_a_compiled_encoder() -> None:
    x, model = images(6), network(activation="tanh")
    task = Reconstruction(**IMAGE, code="sigmoid", contraction=0.2)
    expected = task.loss(model, {"inputs": x}, 0.0).total
    model.encoder.compile(backend="aot_eager")
    model.decoder.compile(backend="aot_eager")
    loss = task.loss(model, {"inputs": x}, 0.0)
    torch.testing.assert_close(loss.total, expected)
    loss.total.backward()
    assert all(p.grad is not None for p in model.parameters())


# --- generation -----------------------------------------------------------------------------------------------------


def request_from(x: Tensor, count: int, seed: int = 0, **more: Any) -> GenerateRequest:
    return request(count, seed, train=lambda: in_batches(x, 100), **more)


def decoded_codes(model: nn.Module, task: Reconstruction, request: GenerateRequest) -> Tensor:
    codes: list[Tensor] = []
    with torch.no_grad(), model.decoder.register_forward_pre_hook(lambda _, given: codes.append(given[0])):
        task.generate(model, request)
    return codes[0]


def test_codes_are_drawn_from_a_gaussian_fitted_to_the_training_codes() -> None:
    x, model, task = images(600), network(), Reconstruction(**IMAGE)
    own = model.encoder(x).detach()
    drawn = decoded_codes(model, task, request_from(x, 20_000))
    spread = own.std(0)
    torch.testing.assert_close(drawn.mean(0) / spread, own.mean(0) / spread, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.corrcoef(drawn.T), torch.corrcoef(own.T), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), spread, atol=0, rtol=0.05)


def test_interpolation_connects_the_codes_of_two_examples() -> None:
    x, model, task = images(50), network(), Reconstruction(**IMAGE)
    paths = decoded_codes(model, task, request_from(x, 24, interpolate=True)).view(3, 8, LATENT)
    distances = torch.cdist(paths[:, [0, 7]].flatten(0, 1), model.encoder(x).detach())
    assert distances.amin(1).max() < 1e-5
    torch.testing.assert_close(paths[:, 3], torch.lerp(paths[:, 0], paths[:, 7], 3 / 7))


def test_given_examples_are_reconstructed_and_samples_are_determined_by_the_seed() -> None:
    x, model, task = images(50), network(), Reconstruction(**IMAGE, code="tanh")
    reconstructed = task.generate(model, request_from(x, 5, given=x[:5]))
    torch.testing.assert_close(reconstructed, model.decoder(model.encoder(x[:5]).tanh()).sigmoid())
    one, same, other = (task.generate(model, request_from(x, 9, seed=seed)) for seed in (4, 4, 5))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert bool((one >= 0).all() and (one <= 1).all())


def test_codes_with_a_constant_dimension_can_be_sampled() -> None:
    x, model = images(50), network()
    with torch.no_grad():
        model.encoder.layers[-1].weight[1] = 0
    drawn = decoded_codes(model, Reconstruction(**IMAGE), request_from(x, 500))
    assert drawn.isfinite().all() and float(np.ptp(drawn[:, 1].numpy())) < 1e-5


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"distance": "bernuolli"}, r"task\.distance: .*Did you mean bernoulli"),
        ({"distance": "bernoulli"}, r"task\.distance: expected mse for data other than images"),
        ({"corruption": "salt"}, r"task\.corruption: expected one of none gaussian masking salt_and_pepper"),
        ({"corruption": "salt_and_pepper"}, r"task\.corruption: expected gaussian or masking"),
        (
            {"corruption": "masking", "amount": 1.5},
            r"task\.amount: expected a fraction from 0 to 1 for task\.corruption=masking, got 1\.5",
        ),
        ({"code": "softmax"}, r"task\.code: expected one of identity relu sigmoid tanh"),
        ({"sparsity": 1.0}, r"task\.code: expected sigmoid, because task\.sparsity"),
    ],
)
def test_invalid_arguments_are_rejected(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Reconstruction([4], 4, **given)
