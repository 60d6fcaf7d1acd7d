"""Variational autoencoder."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, choose, format_error
from dltrain.metrics.running import Mean, MeanVariance
from dltrain.metrics.sample_quality import Quality
from dltrain.plots import grids
from dltrain.tasks.autoencoder_base import (
    GRID_COLUMNS,
    NUM_RECONSTRUCTED,
    Autoencoding,
    CollectedExamples,
    decode,
    encode,
)
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Loss, Media
from dltrain.tasks.sampling import BATCH_SIZE, class_labels, cyclic_labels, reproducible_noise

LIKELIHOODS = {name: name for name in ("auto", "bernoulli", "gaussian")}
# A latent variable is active if the variance of its posterior mean over examples exceeds this value; Burda et al.
# 2016, section 4.2.
ACTIVE = 0.01
SEED = 0  # seed of all noise in an evaluation
GRID_IMAGES = 64  # samples in a grid
NUM_SCORED = 2_000  # samples and real examples that `Quality` compares
MAX_DECODED = 2**20  # values that the decoder returns at a time in an evaluation


@dataclass(eq=False)
class Variational(Autoencoding):
    r"""Variational autoencoder: evidence lower bound with a Gaussian code and a standard Gaussian prior.

    .. math:: -\log p(x) \le \mathbb{E}_{q(z|x)}[-\log p(x|z)] + \operatorname{KL}(q(z|x) \,\|\, p(z))

    Losses and bounds are in nats per example. Evaluation uses beta = 1 and the same noise each time.

    Args:
        likelihood: ``bernoulli`` (values in [0, 1], not only 0 and 1), ``gaussian``, or ``auto``: bernoulli for images,
            gaussian otherwise.
        std: Standard deviation of the Gaussian likelihood; pixels are scaled to [0, 1].
        beta: Weight of the KL divergence in training.
        warmup: Fraction of the run over which beta rises linearly from 0.
        binarize: Binarize pixels at random each time they are read; a pixel's value is its probability of being 1.
        importance_samples: Codes per example in evaluation, for the importance-weighted bound.
        features: Run folder of the classifier whose features `Quality` compares; None to skip these scores.

    Raises:
        ConfigError: The likelihood is unknown or does not fit the data, or ``binarize`` is true and the likelihood is
            Gaussian.

    Source: Kingma and Welling 2014, "Auto-encoding variational Bayes", equation 10 and appendix B; beta, Higgins et al.
    2017; warm-up, Sønderby et al. 2016; importance-weighted bound, Burda et al. 2016, equation 8.
    """

    statistics: ClassVar[int] = 2

    likelihood: str = "auto"
    std: float = 0.1
    beta: float = 1.0
    warmup: float = 0.0
    binarize: bool = False
    importance_samples: int = 10
    features: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded = self.pixel_range.bounded
        if choose("task.likelihood", self.likelihood, LIKELIHOODS) == "bernoulli" and not bounded:
            raise ConfigError(format_error("task.likelihood", "gaussian for data other than images", self.likelihood))
        self.bernoulli = bounded if self.likelihood == "auto" else self.likelihood == "bernoulli"
        if self.binarize and not self.bernoulli:
            raise ConfigError(format_error("task.binarize", "false for a Gaussian likelihood", self.binarize))
        self.log_scale = math.log(self.std) + 0.5 * math.log(2 * math.pi)  # minus the log density at the mean
        self.quality = None if self.features is None else Quality()

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the negative bound for one code per example, with the beta of the current progress."""
        unit, labels = self.pixel_range.to_unit(batch["inputs"]), class_labels(batch)
        targets = torch.bernoulli(unit.clamp(0, 1)) if self.binarize else unit
        inputs = self.pixel_range.from_unit(targets) if self.binarize else batch["inputs"]
        mean, log_variance = self.posterior(model, inputs, labels)
        code = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        reconstruction = self.nll(decode(model, code, labels), targets).mean()
        kl = kl_from_standard(mean, log_variance).mean()
        beta = self.beta * min(1.0, progress / self.warmup) if self.warmup else self.beta
        return Loss(reconstruction + beta * kl, len(targets), {"reconstruction": reconstruction, "kl": kl})

    def posterior(self, model: nn.Module, inputs: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of each example's posterior, (B, latent) each."""
        mean, log_variance = encode(model, inputs, labels).chunk(2, 1)
        return mean, log_variance

    def nll(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return -log p(x|z) of each example, (B,), from the decoder's output."""
        if self.bernoulli:
            each = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
            return each.flatten(1).sum(1)
        squared = (self.to_data_range(outputs) - targets).square().flatten(1).sum(1)
        return squared / (2 * self.std**2) + self.size * self.log_scale

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return the negative bound, its two terms, the negative importance-weighted bound ``iwae`` and other metrics.

        In expectation, ``iwae`` is between -log p(x) and the negative bound. ``active_units`` is the number of active
        latent variables. The baseline is a decoder that ignores its code and returns the mean of the examples.
        """
        noise, mean, collected = torch.Generator().manual_seed(SEED), Mean(), CollectedExamples()
        posterior_means, target_spread, real = MeanVariance(), MeanVariance(), list[Tensor]()
        for batch in batches:
            inputs, labels = batch["inputs"], class_labels(batch)
            targets = unit = self.pixel_range.to_unit(inputs)
            if self.binarize:
                targets = (torch.rand(unit.shape, generator=noise).to(unit.device) < unit).to(unit.dtype)
                inputs = self.pixel_range.from_unit(targets)
            center, log_variance = self.posterior(model, inputs, labels)
            nll, log_weights = self.importance_weights(model, targets, labels, center, log_variance, noise)
            reconstruction, kl = nll.mean(), kl_from_standard(center, log_variance).mean()
            iwae = math.log(self.importance_samples) - log_weights.logsumexp(0).mean()
            mean.add(len(targets), loss=reconstruction + kl, reconstruction=reconstruction, kl=kl, iwae=iwae)
            posterior_means.add(center)
            target_spread.add(targets.flatten(1))
            if not collected.examples:
                first = None if labels is None else labels[:NUM_RECONSTRUCTED]
                outputs = decode(model, center[:NUM_RECONSTRUCTED], first)
                collected.add_examples(targets, self.to_data_range(outputs))
            collected.add_codes(center, labels)
            if self.quality is not None and sum(map(len, real)) < NUM_SCORED:
                real.append(unit)
        metrics = mean.read() | {"active_units": int((posterior_means.variance() > ACTIVE).sum())}
        if self.quality is not None:
            scored = torch.cat(real)[:NUM_SCORED]
            samples = [self._samples(model, len(rows), noise) for rows in scored.split(BATCH_SIZE)]
            metrics |= self.quality.measure(scored, torch.cat(samples))
        collapsed = f"none of {center.shape[1]} latent variables is active (KL {metrics['kl']:.2g} nats)"
        advice = "the decoder ignores its code. Try a smaller task.beta or a longer task.warmup."
        notes = [] if metrics["active_units"] else [f"posterior collapse: {collapsed}; {advice}"]
        return Evaluation(metrics, {"mean example": self._baseline(target_spread)}, {"collected": collected}, notes)

    def importance_weights(
        self,
        model: nn.Module,
        targets: Tensor,
        labels: Tensor | None,
        mean: Tensor,
        log_variance: Tensor,
        noise: Generator,
    ) -> tuple[Tensor, Tensor]:
        """Draw codes z; return -log p(x|z) and log p(x,z) - log q(z|x), (importance_samples, B) each."""
        count, at_once = len(targets), max(1, MAX_DECODED // targets.numel())
        nlls, log_weights = [], []
        for start in range(0, self.importance_samples, at_once):
            drawn = min(at_once, self.importance_samples - start)
            standard = torch.randn(drawn, *mean.shape, generator=noise).to(mean.device)
            codes = mean + torch.exp(0.5 * log_variance) * standard
            outputs = decode(model, codes.flatten(0, 1), None if labels is None else labels.repeat(drawn))
            repeated = targets.expand(drawn, *targets.shape).flatten(0, 1)
            nlls.append(self.nll(outputs, repeated).view(drawn, count))
            log_weights.append(0.5 * (standard.square() - codes.square() + log_variance).sum(2) - nlls[-1])
        return torch.cat(nlls), torch.cat(log_weights)

    def _baseline(self, targets: MeanVariance) -> dict[str, float]:
        """Return the metrics of the best decoder that ignores its code: it returns the mean of the targets."""
        if self.bernoulli:
            probability = targets.mean().clamp(0, 1)
            loss = (torch.special.entr(probability) + torch.special.entr(1 - probability)).sum()
        else:
            loss = targets.variance().sum() / (2 * self.std**2) + self.size * self.log_scale
        return {"loss": float(loss), "reconstruction": float(loss), "kl": 0.0, "iwae": float(loss)}

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return reconstructions, a scatter plot of the codes, and samples from fixed noise."""
        samples = self.frame(model)
        return [*super().show(model, evaluation), *([] if samples is None else [Media("samples", samples)])]

    def frame(self, model: nn.Module) -> Tensor | None:
        """Return a grid of samples from fixed noise; a conditional model generates the classes in turn."""
        if not self.has_images:
            return None
        return grids.images(self._samples(model, GRID_IMAGES, torch.Generator().manual_seed(SEED)), GRID_COLUMNS)

    def _samples(self, model: nn.Module, count: int, noise: Generator) -> Tensor:
        """Return samples: decoded codes from the prior; a conditional model generates the classes in turn."""
        codes = reproducible_noise(model, count, noise)
        return self.to_data_range(decode(model, codes, cyclic_labels(model, count)))

    def codes(self, model: nn.Module, inputs: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean of each example's posterior."""
        return self.posterior(model, inputs, labels)[0]

    def sample_codes(self, model: nn.Module, request: GenerateRequest, count: int) -> Tensor:
        """Draw codes from the prior."""
        return reproducible_noise(model, count, request.noise)


def kl_from_standard(mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""Return the KL divergence of diagonal Gaussians from the standard Gaussian, in nats: (B, D), (B, D) -> (B,).

    .. math:: -\frac12 \sum_j (1 + \log \sigma_j^2 - \mu_j^2 - \sigma_j^2)

    Source: Kingma and Welling 2014, appendix B.
    """
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
