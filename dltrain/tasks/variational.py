"""Learn to make up examples: the variational autoencoder."""

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error, suggest
from dltrain.metrics.running import Mean, Spread
from dltrain.metrics.sample_quality import Quality
from dltrain.plots import grids
from dltrain.tasks.autoencoder_base import COLUMNS, REMADE, Autoencoding, Memory, classes_told, decode, encode
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Loss, Media
from dltrain.tasks.told import classes_of

LIKELIHOODS = ("auto", "bernoulli", "gaussian")
ACTIVE = 0.01  # variance over examples of a posterior mean that carries something; Burda et al. 2016, section 4.2
SEED = 0  # of all that is drawn to evaluate and to show
SHEET = 64  # samples on a sheet
JUDGED = 2_000  # samples and real examples that `Quality` compares
ROWS = 500  # of them that are decoded at a time
AT_ONCE = 2**20  # numbers that the decoder makes at a time in an evaluation


class Variational(Autoencoding):
    r"""The evidence lower bound of a Gaussian code, with a standard Gaussian as the prior.

    .. math:: -\log p(x) \le \mathbb{E}_{q(z|x)}[-\log p(x|z)] + \operatorname{KL}(q(z|x) \,\|\, p(z))

    All figures are nats per example. Evaluation takes beta = 1 and draws the same noise each time.

    Args:
        shape: Of one example.
        size: Numbers in one example.
        low: What a model reads for black, one number per channel; None for data without bounds.
        high: What it reads for white, likewise.
        class_names: One name per class, for the map of the code.
        likelihood: ``bernoulli`` for numbers from 0 to 1 (all of them, not only 0 and 1), ``gaussian``, or ``auto``:
            bernoulli for pictures, else gaussian.
        std: Of the Gaussian likelihood: on the scale from 0 to 1 for pictures, otherwise as a model reads the data.
        beta: What the divergence from the prior counts in training.
        warmup: Share of the run over which beta rises from 0.
        binarise: Draw each number of a picture to be 0 or 1, with itself as the probability, anew at every reading.
        importance_samples: Codes per example at evaluation.
        features: Folder of a run through whose classifier `Quality` judges samples; None judges none.

    Raises:
        ConfigError: When a likelihood is unknown or does not suit the data.

    Source: Kingma and Welling 2014, "Auto-encoding variational Bayes", equation 10 and appendix B; beta, Higgins et al.
    2017; its warm-up, Sønderby et al. 2016; the importance-weighted bound, Burda et al. 2016, equation 8.
    """

    statistics: ClassVar[int] = 2

    def __init__(
        self,
        shape: list[int],
        size: int,
        low: list[float] | None = None,
        high: list[float] | None = None,
        class_names: list[str] | None = None,
        likelihood: str = "auto",
        std: float = 0.1,
        beta: float = 1.0,
        warmup: float = 0.0,
        binarise: bool = False,
        importance_samples: int = 10,
        features: str | None = None,
    ) -> None:
        super().__init__(shape, size, low, high, class_names)
        self.bernoulli = self._is_bernoulli(likelihood)
        if binarise and not self.bernoulli:
            raise ConfigError(format_error("task.binarise", "false where numbers are not from 0 to 1", binarise))
        self.std, self.beta, self.warmup, self.binarise = std, beta, warmup, binarise
        self.importance_samples = importance_samples
        self.quality = None if features is None else Quality()

    def _is_bernoulli(self, likelihood: str) -> bool:
        if likelihood not in LIKELIHOODS:
            hint = suggest(likelihood, LIKELIHOODS)
            raise ConfigError(format_error("task.likelihood", f"one of {' '.join(LIKELIHOODS)}", likelihood, hint))
        if likelihood == "bernoulli" and not self.pixel_range.bounded:
            raise ConfigError(format_error("task.likelihood", "gaussian for data that are not pictures", likelihood))
        return self.pixel_range.bounded if likelihood == "auto" else likelihood == "bernoulli"

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """The negative bound by one code per example, with beta as the run's progress has it."""
        unit, labels = self.pixel_range.to_unit(batch["inputs"]), classes_of(batch)
        wanted = torch.bernoulli(unit.clamp(0, 1)) if self.binarise else unit
        mean, log_variance = self.posterior(model, self._read(batch, wanted), labels)
        code = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        reconstruction = self.distortion(decode(model, code, labels), wanted).mean()
        kl = divergence(mean, log_variance).mean()
        parts = {"reconstruction": reconstruction, "kl": kl}
        return Loss(reconstruction + self.weight(progress) * kl, len(wanted), parts)

    def weight(self, progress: float) -> float:
        """Beta at some point of the run."""
        return self.beta * min(1.0, progress / self.warmup) if self.warmup else self.beta

    def posterior(self, model: nn.Module, inputs: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code of each example, (B, latent) each."""
        mean, log_variance = encode(model, inputs, labels).chunk(2, 1)
        return mean, log_variance

    def distortion(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """-log p(x|z) of each example, (B,), given the decoder's raw numbers."""
        if self.bernoulli:
            each = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
            return each.flatten(1).sum(1)
        squared = (self.seen(outputs) - wanted).square().flatten(1).sum(1)
        return squared / (2 * self.std**2) + self.size * self._log_scale

    @property
    def _log_scale(self) -> float:
        """Minus the logarithm of the Gaussian likelihood's density at its mean, per number."""
        return math.log(self.std) + 0.5 * math.log(2 * math.pi)

    def _read(self, batch: Batch, wanted: Tensor) -> Tensor:
        return self.pixel_range.from_unit(wanted) if self.binarise else batch["inputs"]

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """The negative bound and its two terms, the importance-weighted bound, and how many variables are active.

        ``iwae`` lies between the negative bound and -log p(x). The baseline knows the mean of each number over the
        examples that are evaluated, and nothing else: what a decoder says that ignores its code.
        """
        noise, mean, memory = torch.Generator().manual_seed(SEED), Mean(), Memory()
        means, numbers, real = Spread(), Spread(), list[Tensor]()
        for batch in batches:
            wanted, labels = self._wanted(batch, noise), classes_of(batch)
            center, log_variance = self.posterior(model, self._read(batch, wanted), labels)
            distortions, log_weights = self.weighed(model, wanted, labels, center, log_variance, noise)
            reconstruction, kl = distortions.mean(), divergence(center, log_variance).mean()
            iwae = math.log(self.importance_samples) - log_weights.logsumexp(0).mean()
            mean.add(len(wanted), loss=reconstruction + kl, reconstruction=reconstruction, kl=kl, iwae=iwae)
            means.add(center)
            numbers.add(wanted.flatten(1))
            if not memory.count:
                told = None if labels is None else labels[:REMADE]
                memory.keep(wanted[:REMADE], self.seen(decode(model, center[:REMADE], told)))
            memory.add(center, labels)
            if self.quality is not None and sum(map(len, real)) < JUDGED:
                real.append(self.pixel_range.to_unit(batch["inputs"]))
        metrics = mean.read() | {"active_units": int((means.variance() > ACTIVE).sum())}
        if self.quality is not None:
            metrics |= self._judged(model, self.quality, torch.cat(real)[:JUDGED], noise)
        notes = [collapsed(metrics["kl"], center.shape[1])] if not metrics["active_units"] else []
        return Evaluation(metrics, {"mean example": self._baseline(numbers)}, {"memory": memory}, notes)

    def _judged(self, model: nn.Module, quality: Quality, real: Tensor, noise: Generator) -> dict[str, float]:
        """The scores of as many samples as there are real examples."""
        made = [self._samples(model, len(rows), noise) for rows in real.split(ROWS)]
        return quality.measure(real, torch.cat(made))

    def _wanted(self, batch: Batch, noise: Generator) -> Tensor:
        """What the decoder is to say, the same at every evaluation."""
        unit = self.pixel_range.to_unit(batch["inputs"])
        if not self.binarise:
            return unit
        return (torch.rand(unit.shape, generator=noise).to(unit.device) < unit).to(unit.dtype)

    def weighed(
        self,
        model: nn.Module,
        wanted: Tensor,
        labels: Tensor | None,
        mean: Tensor,
        log_variance: Tensor,
        noise: Generator,
    ) -> tuple[Tensor, Tensor]:
        """Several codes for each example: -log p(x|z) and log p(x,z) - log q(z|x) of each, (importance_samples, B)."""
        count, at_once = len(wanted), max(1, AT_ONCE // wanted.numel())
        distortions, log_weights = [], []
        for start in range(0, self.importance_samples, at_once):
            drawn = min(at_once, self.importance_samples - start)
            standard = torch.randn(drawn, *mean.shape, generator=noise).to(mean.device)
            codes = mean + torch.exp(0.5 * log_variance) * standard
            told = None if labels is None else labels.repeat(drawn)
            outputs = decode(model, codes.flatten(0, 1), told)
            again = wanted.expand(drawn, *wanted.shape).flatten(0, 1)
            distortions.append(self.distortion(outputs, again).view(drawn, count))
            log_weights.append(0.5 * (standard.square() - codes.square() + log_variance).sum(2) - distortions[-1])
        return torch.cat(distortions), torch.cat(log_weights)

    def _baseline(self, numbers: Spread) -> dict[str, float]:
        """The figures of a decoder that always says the mean of all examples; the best that ignores its code."""
        if self.bernoulli:
            share = numbers.mean().clamp(0, 1)
            least = (torch.special.entr(share) + torch.special.entr(1 - share)).sum()
        else:
            least = numbers.variance().sum() / (2 * self.std**2) + self.size * self._log_scale
        return {"loss": float(least), "reconstruction": float(least), "kl": 0.0, "iwae": float(least)}

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Examples and what was made of them, the map of the code, and samples from the same noise each time."""
        sheet = self.frame(model)
        return [*super().show(model, evaluation), *([] if sheet is None else [Media("samples", sheet)])]

    def frame(self, model: nn.Module) -> Tensor | None:
        """Samples from the same noise each time; of a conditional model the classes in turn."""
        if not self.pictures:
            return None
        return grids.images(self._samples(model, SHEET, torch.Generator().manual_seed(SEED)), COLUMNS)

    def _samples(self, model: nn.Module, count: int, noise: Generator) -> Tensor:
        """Decoded codes from the prior; of a conditional model the classes in turn."""
        device, classes = next(model.parameters()).device, classes_told(model)
        codes = torch.randn(count, _latent(model), generator=noise).to(device)
        labels = torch.arange(count, device=device) % classes if classes else None
        return self.seen(decode(model, codes, labels))

    def codes(self, model: nn.Module, inputs: Tensor, labels: Tensor | None) -> Tensor:
        """The mean of each example's posterior."""
        return self.posterior(model, inputs, labels)[0]

    def drawn(self, model: nn.Module, request: GenerateRequest, labels: Tensor | None, count: int) -> Tensor:
        """Codes from the prior."""
        return torch.randn(count, _latent(model), generator=request.noise).to(request.device)


def _latent(model: nn.Module) -> int:
    return model.latent  # type: ignore[return-value]


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""KL of a Gaussian with independent variables from the standard Gaussian, in nats: (B, D), (B, D) -> (B,).

    .. math:: -\frac12 \sum_j (1 + \log \sigma_j^2 - \mu_j^2 - \sigma_j^2)

    Source: Kingma and Welling 2014, appendix B.
    """
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)


def collapsed(kl: float, latent: int) -> str:
    """What to tell people whose decoder ignores the code."""
    return (
        f"posterior collapse: none of {latent} latent variables tells examples apart (KL {kl:.2g} nats), the decoder "
        "ignores its code. A smaller task.beta, or a longer task.warmup, may help."
    )
