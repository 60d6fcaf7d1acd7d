"""Evidence lower bound of a VAE, compared with sampling, torch.distributions and a model with known likelihood."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from task_examples import evaluate, fit, normal, request
from torch import Tensor, nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from dltrain.errors import ConfigError
from dltrain.models.autoencoders import DenseAutoencoder
from dltrain.tasks.variational import Variational, kl_from_standard

IMAGE = {"shape": [1, 6, 6], "size": 36, "low": [0.0], "high": [1.0]}
LATENT = 3


def images(count: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Return images with a vertical bar at random positions."""
    position = torch.rand(count, 1, 1, 1, generator=torch.Generator().manual_seed(seed)) * 6
    unit = torch.exp(-((torch.arange(6) - position) ** 2)).expand(count, 1, 6, 6)
    return low + unit * (high - low)


def network(**changes: Any) -> DenseAutoencoder:
    torch.manual_seed(0)
    return DenseAutoencoder([1, 6, 6], 2, **{"hidden_size": 32, "latent": LATENT, **changes})


# --- the two terms --------------------------------------------------------------------------------------------------


def test_the_kl_divergence_equals_torch_and_a_sampled_estimate() -> None:
    mean, log_variance = normal(4, 5), 0.5 * normal(4, 5, seed=1)
    q, p = Normal(mean, torch.exp(0.5 * log_variance)), Normal(0.0, 1.0)
    closed = kl_from_standard(mean, log_variance)
    torch.manual_seed(0)
    z = q.sample((200_000,))
    sampled = (q.log_prob(z) - p.log_prob(z)).sum(2).mean(0)
    torch.testing.assert_close(closed, sampled, rtol=0.01, atol=0)
    torch.testing.assert_close(closed, kl_divergence(q, p).sum(1))


def test_the_bernoulli_likelihood_equals_torch() -> None:
    outputs, targets = 3 * normal(5, 1, 6, 6), (normal(5, 1, 6, 6, seed=1) > 0).float()
    expected = -Bernoulli(logits=outputs).log_prob(targets).flatten(1).sum(1)
    torch.testing.assert_close(Variational(**IMAGE).nll(outputs, targets), expected)


def test_the_gaussian_likelihood_of_images_uses_pixels_scaled_to_the_range_0_to_1() -> None:
    task = Variational(**IMAGE, likelihood="gaussian", std=0.3)
    outputs, targets = normal(5, 1, 6, 6), normal(5, 1, 6, 6, seed=1).sigmoid()
    expected = -Normal(outputs.sigmoid(), 0.3).log_prob(targets).flatten(1).sum(1)
    torch.testing.assert_close(task.nll(outputs, targets), expected)


def test_the_gaussian_likelihood_of_data_other_than_images_uses_the_units_of_the_data() -> None:
    task = Variational([4], 4, std=0.3)
    outputs, targets = normal(5, 4), normal(5, 4, seed=1)
    expected = -Normal(outputs, 0.3).log_prob(targets).sum(1)
    torch.testing.assert_close(task.nll(outputs, targets), expected)


def test_the_loss_equals_that_of_the_pytorch_example() -> None:
    x, model, task = images(8), network(), Variational(**IMAGE)
    torch.manual_seed(5)
    loss = task.loss(model, {"inputs": x}, 0.0)
    torch.manual_seed(5)
    mu, logvar = model.encoder(x)[:, :LATENT], model.encoder(x)[:, LATENT:]
    z = mu + torch.exp(0.5 * logvar) * torch.randn_like(logvar)
    reconstructed = torch.sigmoid(model.decoder(z))
    bce = nn.functional.binary_cross_entropy(reconstructed.view(-1, 36), x.view(-1, 36), reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    torch.testing.assert_close(8 * loss.total, bce + kld)
    assert loss.weight == 8
    torch.testing.assert_close(8 * loss.parts["kl"], kld)
    torch.testing.assert_close(8 * loss.parts["reconstruction"], bce)


def test_image_metrics_do_not_depend_on_the_input_scale() -> None:
    model, metrics = network(), []
    for low, high in ((0.0, 1.0), (-0.5, 3.0)):
        shifted = nn.Sequential()
        shifted.encoder = lambda x, labels, low=low, high=high: model.encoder((x - low) / (high - low), labels)
        shifted.decoder, shifted.latent = model.decoder, LATENT
        task = Variational(**{**IMAGE, "low": [low], "high": [high]})
        metrics.append(evaluate(task, shifted, images(20, low=low, high=high)).metrics)
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-5)


# --- beta and binarized pixels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "warmup", "progress", "weight"),
    [(1.0, 0.0, 0.0, 1.0), (4.0, 0.0, 0.5, 4.0), (1.0, 0.5, 0.0, 0.0), (2.0, 0.5, 0.25, 1.0), (2.0, 0.5, 0.9, 2.0)],
)
def test_beta_rises_linearly_over_the_warm_up(beta: float, warmup: float, progress: float, weight: float) -> None:
    task, x = Variational(**IMAGE, beta=beta, warmup=warmup), images(8)
    loss = task.loss(network(), {"inputs": x}, progress)
    torch.testing.assert_close(loss.total, loss.parts["reconstruction"] + weight * loss.parts["kl"])


def test_evaluation_uses_beta_1() -> None:
    x, model = images(20), network()
    plain, heavy = (evaluate(Variational(**IMAGE, beta=beta, warmup=1.0), model, x).metrics for beta in (1.0, 9.0))
    assert plain == heavy
    assert plain["loss"] == pytest.approx(plain["reconstruction"] + plain["kl"])


def test_binarized_pixels_are_black_or_white_and_have_the_original_mean() -> None:
    seen = []

    class Watching(DenseAutoencoder):
        def __init__(self) -> None:
            super().__init__([1, 6, 6], 2, hidden_size=8, latent=LATENT)
            self.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    task = Variational(**{**IMAGE, "low": [-1.0], "high": [3.0]}, binarize=True)
    model, x = Watching(), images(4, low=-1.0, high=3.0)
    for _ in range(400):
        task.loss(model, {"inputs": x}, 0.0)
    assert set(torch.cat(seen).unique().tolist()) == {-1.0, 3.0}
    torch.testing.assert_close(torch.stack(seen).mean(0), x, atol=0.45, rtol=0)  # 4.5 standard deviations of the mean
    assert evaluate(task, model, x).metrics == evaluate(task, model, x).metrics


# --- the bounds -----------------------------------------------------------------------------------------------------


class LinearGaussian(nn.Module):
    """Linear Gaussian model, p(z) = N(0, 1) and p(x|z) = N(Wz + b, std^2), with known p(x) and p(z|x).

    Args:
        exact: Whether the encoder returns p(z|x) instead of a shifted and wider Gaussian.
    """

    def __init__(self, size: int, latent: int, std: float, exact: bool) -> None:
        super().__init__()
        weight, bias = normal(size, latent), normal(size, seed=1)
        # The posterior is diagonal only if the columns are orthogonal.
        self.weight, self.bias = torch.linalg.qr(weight).Q * torch.tensor([2.0, 1.0])[:latent], bias
        self.precision = self.weight.square().sum(0) / std**2 + 1
        self.std, self.exact, self.latent = std, exact, latent
        self.evidence = MultivariateNormal(bias, self.weight @ self.weight.T + std**2 * torch.eye(size))

    def encoder(self, x: Tensor, labels: Tensor | None) -> Tensor:
        mean = (x - self.bias) @ self.weight / self.std**2 / self.precision
        log_variance = -self.precision.log().expand(len(x), -1)
        return torch.cat([mean, log_variance] if self.exact else [0.9 * mean + 0.1, log_variance + 0.4], 1)

    def decoder(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return z @ self.weight.T + self.bias


def linear(exact: bool, samples: int) -> tuple[dict[str, float], float]:
    model = LinearGaussian(5, 2, 0.5, exact)
    torch.manual_seed(0)
    x = model.evidence.sample((600,))
    metrics = evaluate(Variational([5], 5, std=0.5, importance_samples=samples), model, x, 100).metrics
    return metrics, -float(model.evidence.log_prob(x).mean())


def test_with_the_exact_posterior_both_bounds_equal_the_likelihood() -> None:
    metrics, truth = linear(exact=True, samples=500)
    assert metrics["loss"] == pytest.approx(truth, rel=1e-3)
    assert metrics["iwae"] == pytest.approx(truth, rel=1e-5)  # every importance weight equals p(x)


def test_with_an_inexact_posterior_only_the_importance_weighted_bound_is_close_to_the_likelihood() -> None:
    metrics, truth = linear(exact=False, samples=500)
    assert metrics["loss"] > truth + 0.05
    assert truth <= metrics["iwae"] + 0.002
    assert metrics["iwae"] == pytest.approx(truth, abs=0.01)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """Return a VAE trained on 64 images."""
    return fit(network(), Variational(**IMAGE), {"inputs": images(64)}, 300, 3e-3)


def test_the_importance_weighted_bound_improves_with_the_number_of_samples(trained: nn.Module) -> None:
    samples = (2, 20, 200)
    found = [evaluate(Variational(**IMAGE, importance_samples=n), trained, images(200, 1)).metrics for n in samples]
    bounds = [metrics["iwae"] for metrics in found]
    assert found[-1]["loss"] > bounds[0] > bounds[1] > bounds[2]


def test_importance_samples_are_decoded_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, model = images(10), network()
    whole = evaluate(Variational(**IMAGE, importance_samples=300), model, x).metrics
    monkeypatch.setattr("dltrain.tasks.variational.MAX_DECODED", 7 * 360)
    task = Variational(**IMAGE, importance_samples=300)
    parts = evaluate(task, model, x).metrics
    assert parts == pytest.approx(whole, rel=2e-3)
    mean, log_variance = task.posterior(model, x, None)
    shapes = [found.shape for found in task.importance_weights(model, x, None, mean, log_variance, torch.Generator())]
    assert shapes == [(300, 10), (300, 10)]


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_metrics_images_and_samples_are_bitwise_reproducible_and_leave_the_global_generator_unchanged() -> None:
    task, model, x = Variational(**IMAGE, binarize=True), network(), images(40)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    evaluations = [evaluate(task, model, x) for _ in range(2)]
    shown = [task.show(model, evaluation) for evaluation in evaluations]
    assert [item.tag for item in shown[0]] == ["reconstructions", "codes", "samples"]
    for one, other in zip(*shown, strict=True):
        assert torch.equal(one.image, other.image) and one.image.dtype == torch.uint8
    assert torch.equal(task.frame(model), shown[0][2].image)
    generated = [task.generate(model, request(9, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(generated[0], generated[1]) and not torch.equal(generated[0], generated[2])
    assert evaluations[0].metrics == evaluations[1].metrics
    assert torch.equal(torch.get_rng_state(), before)


def test_metrics_are_means_over_examples_even_with_a_short_last_batch() -> None:
    task, model, x = Variational(**IMAGE, importance_samples=200), network(), images(33)
    whole, parts = (evaluate(task, model, x, size).metrics for size in (33, 16))
    assert parts["kl"] == pytest.approx(whole["kl"], rel=1e-6)
    assert parts == pytest.approx(whole, rel=2e-3)


class Collapsed(nn.Module):
    """Model whose encoder returns the prior for every example and whose decoder is constant."""

    latent = LATENT

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def encoder(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return torch.zeros(len(x), 2 * LATENT)

    def decoder(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.output.expand(len(z), *self.output.shape)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_collapsed_model_is_reported_and_predicts_the_mean_example(likelihood: str) -> None:
    x = images(40)
    evaluation = evaluate(Variational(**IMAGE, likelihood=likelihood), Collapsed(x.mean(0).logit()), x)
    (note,) = evaluation.notes
    assert note.startswith(f"posterior collapse: none of {LATENT} latent variables")
    assert evaluation.metrics["active_units"] == 0 and evaluation.metrics["kl"] == 0
    baseline = evaluation.baselines["mean example"]
    assert {name: evaluation.metrics[name] for name in baseline} == pytest.approx(baseline, rel=1e-5)


def test_a_trained_model_is_not_reported_as_collapsed(trained: nn.Module) -> None:
    evaluation = evaluate(Variational(**IMAGE), trained, images(50, seed=1))
    assert evaluation.notes == [] and evaluation.metrics["active_units"] >= 1
    assert evaluation.metrics["loss"] < evaluation.baselines["mean example"]["loss"] - 1


def test_latent_variables_with_varying_means_count_as_active() -> None:
    class Half(Collapsed):
        def encoder(self, x: Tensor, labels: Tensor | None) -> Tensor:
            means = x.flatten(1)[:, :LATENT] * torch.tensor([1.0, 0.0, 1e-3])
            return torch.cat([means, torch.zeros(len(x), LATENT)], 1)

    x = images(50)
    assert np.var(x.flatten(1)[:, :LATENT].numpy(), axis=0).min() > 0.02
    assert evaluate(Variational(**IMAGE), Half(x[0]), x).metrics["active_units"] == 1


# --- generation -----------------------------------------------------------------------------------------------------


def test_samples_are_decoded_from_the_prior() -> None:
    model, task = network(), Variational(**IMAGE)
    expected = model.decoder(torch.randn(7, LATENT, generator=torch.Generator().manual_seed(0))).sigmoid()
    torch.testing.assert_close(task.generate(model, request(7)), expected)


def test_interpolations_are_straight_lines_of_eight_codes() -> None:
    codes = []
    model, task = network(), Variational(**IMAGE)
    model.decoder.register_forward_pre_hook(lambda _, given: codes.append(given[0]))
    assert task.generate(model, request(20, interpolate=True)).shape == (20, 1, 6, 6)
    paths = codes[0].view(3, 8, LATENT)
    steps = paths.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-5, rtol=1e-4)
    assert steps[:, 0].abs().amax(1).min() > 1e-3 and not torch.equal(paths[0, -1], paths[1, 0])


def test_each_given_example_is_reconstructed_from_its_posterior_mean() -> None:
    model, task, x = network(), Variational(**IMAGE), images(5)
    expected = model.decoder(model.encoder(x)[:, :LATENT]).sigmoid()
    torch.testing.assert_close(task.generate(model, request(5, given=x)), expected)


def test_a_conditional_model_generates_the_requested_class() -> None:
    labels = torch.arange(60) % 2
    bright = labels[:, None, None, None].float().expand(-1, 1, 6, 6)
    task = Variational(**IMAGE)
    model = fit(network(conditional=True, classes=2), task, {"inputs": bright, "targets": labels}, 300, 1e-2)
    dark, light = (task.generate(model, request(9, label=label)) for label in (0, 1))
    assert dark.mean() < 0.1 and light.mean() > 0.9
    assert 0.2 < task.generate(model, request(40)).mean() < 0.8
    mixed = task.generate(model, request(16, interpolate=True)).view(2, 8, 36).mean(2)
    assert (mixed.amax(1) - mixed.amin(1)).max() < 0.3, "all images of an interpolation must have the same class"


@pytest.mark.parametrize(
    ("model", "label", "message"),
    [(network(), 1, "not conditional"), (network(conditional=True, classes=3), 3, "0 to 2")],
)
def test_a_class_unknown_to_the_model_is_rejected(model: nn.Module, label: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--class: .*{message}"):
        Variational(**IMAGE).generate(model, request(4, label=label))


def test_numeric_targets_are_not_used_as_classes() -> None:
    task, model = Variational(**IMAGE), network(conditional=True, classes=2)
    for targets in (normal(8, 1), torch.arange(8).float()):
        assert task.loss(model, {"inputs": images(8), "targets": targets}, 0.0).total.isfinite()


def test_samples_are_compared_with_the_data_if_task_features_is_set(trained: nn.Module) -> None:
    class Ends:
        """A classifier with the means of the first and the last column as features."""

        name = "two columns"

        def __call__(self, seen: Tensor) -> tuple[Tensor, Tensor]:
            return seen[:, 0, :, [0, -1]].mean(1), seen[:, 0, 0]

    task, x = Variational(**IMAGE, features="a run"), images(300)
    task.quality.network = Ends()
    before, after = (evaluate(task, model, x).metrics for model in (network().eval(), trained))
    assert after["frechet"] < 0.2 * before["frechet"] and after["recall"] > before["recall"]
    assert evaluate(task, trained, x).metrics == after
    assert "frechet" not in evaluate(Variational(**IMAGE), trained, x).metrics


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"likelihood": "gausian"}, r"task\.likelihood: .*Did you mean gaussian"),
        ({"likelihood": "bernoulli"}, r"task\.likelihood: expected gaussian for data other than images"),
        ({"binarize": True}, r"task\.binarize: expected false"),
    ],
)
def test_unknown_names_and_settings_that_do_not_fit_the_data_are_rejected(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Variational([4], 4, **given)


def test_a_model_without_encoder_and_decoder_is_rejected() -> None:
    with pytest.raises(ConfigError, match="expected a model with an encoder and a decoder, such as vae"):
        Variational([4], 4).stages(nn.Linear(4, 4))


def test_only_codes_are_shown_for_data_other_than_images() -> None:
    torch.manual_seed(0)
    task, model = Variational([4], 4), DenseAutoencoder([4], 2, hidden_size=8, latent=2)
    evaluation = evaluate(task, model, normal(30, 4))
    assert [item.tag for item in task.show(model, evaluation)] == ["codes"]
    assert task.frame(model) is None
    assert math.isfinite(evaluation.metrics["loss"])
