"""Learn to make examples: a generator against a critic that tells them from real ones."""

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.mode_coverage import modes_found
from dltrain.metrics.sample_quality import Quality
from dltrain.plots import charts, grids
from dltrain.tasks import sampling
from dltrain.tasks.autoencoder_base import gathered
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Loss, Media, Stage, Task, Turn
from dltrain.tasks.gan_losses import find_game, gradient_penalty
from dltrain.tasks.pixel_range import PixelRange
from dltrain.tasks.sampling import in_rows
from dltrain.tasks.told import classes_of

MOST = 2_000  # examples that are judged: precision and recall compare each with each
SHOWN, COLUMNS, MOST_COLUMNS = 64, 8, 16  # pictures on a sheet, and in one of its rows
POINTS = 1_000  # points in a plane that are shown, real ones and made up ones
PENALTY = 10.0  # Gulrajani et al. 2017, section 4
PARTS = ("generator", "critic")


class Adversarial(Task):
    """A critic learns to tell real examples from made-up ones, and a generator to make such as it takes for real.

    A step has two turns on the same batch, first the critic's, then the generator's, each with fresh noise. Real and
    made-up examples pass through a critic with batch norm apart, as in DCGAN (Radford et al. 2016). Pictures are the
    hyperbolic tangent of the generator's raw numbers, mapped from black to white; other data are the raw numbers.

    Metrics, over at most 2,000 examples of a split and as many made-up ones, always from the same noise: those of
    `Quality`, of which ``frechet`` is watched; ``loss`` of the critic and ``loss_generator``, which say who is ahead
    and nothing about quality, but for ``wasserstein``, where minus ``loss`` estimates the distance; the critic's mean
    outputs ``critic_real`` and ``critic_fake``, and ``told_apart``, the share of pairs of a real and a made-up example
    of which it prefers the real one. For points in a plane with classes also those of `modes_found`, of which
    ``coverage`` is watched: Fréchet's distance knows mean and covariance only, and a smear over a ring has those, too.

    Args:
        shape: Of one example.
        low: What a model reads for black, one number per channel; None for data without bounds.
        high: What it reads for white, likewise.
        classes: Number of classes, where there are any.
        class_names: One name per class.
        loss_name: ``non_saturating``, ``least_squares``, ``hinge`` or ``wasserstein``.
        clip: Keep the critic's weights within this size; 0 for any.
        penalty: Weight of the critic's gradient penalty; None is 10 for ``wasserstein`` without ``clip`` and 0 for all
            else.
        n_critic: Steps, in all of which the critic moves, for one move of the generator.
        critic_lr: Learning rate of the critic; None takes the optimizer's.
        generator_lr: Learning rate of the generator, likewise.
        features: Folder of a run, through whose classifier `Quality` looks.

    Source: Goodfellow et al. 2014, algorithm 1; losses: see `Game`; clipping: Arjovsky et al. 2017, algorithm 1;
    penalty: Gulrajani et al. 2017; two learning rates: Heusel et al. 2017.
    """

    metric: ClassVar[str] = "frechet"
    better: ClassVar[Literal["min", "max"]] = "min"
    quality: Quality

    def __init__(
        self,
        shape: list[int],
        low: list[float] | None = None,
        high: list[float] | None = None,
        classes: int | None = None,
        class_names: list[str] | None = None,
        loss_name: str = "non_saturating",
        clip: float = 0.0,
        penalty: float | None = None,
        n_critic: int = 1,
        critic_lr: float | None = None,
        generator_lr: float | None = None,
        features: str | None = None,
    ) -> None:
        self.shape, self.pixel_range, self.classes = tuple(shape), PixelRange(low, high), classes
        self.game, self.clip, self.n_critic = find_game(loss_name), clip, n_critic
        self.penalty = (PENALTY if loss_name == "wasserstein" and not clip else 0.0) if penalty is None else penalty
        self.critic_lr, self.generator_lr = critic_lr, generator_lr
        self.quality = Quality(classes)
        self.in_plane = self.shape == (2,)
        self.apart: bool | None = None  # real and made-up examples pass through the critic apart; the model decides
        self.real: Tensor | None = None  # points that were evaluated last, to be drawn
        if self.in_plane and classes:
            self.metric, self.better = "coverage", "max"  # type: ignore[misc]  # what is watched depends on the data

    def facts(self) -> dict[str, Any]:
        """The critic's answer to an example is one number."""
        return {"answers": 1}

    def stages(self, model: nn.Module) -> list[Stage]:
        """One, in which critic and generator take turns.

        Raises:
            ConfigError: For a model without these parts, or a critic whose norm mixes what the penalty takes singly.
        """
        self._refuse(model)
        critic, generator = ([p for p in getattr(model, name).parameters() if p.requires_grad] for name in PARTS[::-1])
        turns = [
            Turn("critic", critic, lambda batch, progress: self.loss(model, batch, progress), lr=self.critic_lr),
            Turn(
                "generator",
                generator,
                lambda batch, progress: self.generator_loss(model, batch),
                every=self.n_critic,
                lr=self.generator_lr,
            ),
        ]
        return [Stage("train", turns)]

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """The critic's loss; no gradient reaches the generator."""
        real, labels = batch["inputs"], classes_of(batch)
        self._clip(model)
        with torch.no_grad():
            fake = self.made(model, sampling.fresh(model, real), labels)
        # Before the scores: a compiled critic keeps what a spectral norm's next pass would change.
        slope = gradient_penalty(model, real, fake, labels) if self.penalty else None
        on_real, on_fake = self.said_of_both(model, real, fake, labels)
        total, parts = (
            self.game.critic(on_real, on_fake),
            {"critic_real": on_real.mean(), "critic_fake": on_fake.mean()},
        )
        if slope is None:
            return Loss(total, len(real), parts)
        return Loss(total + self.penalty * slope, len(real), {**parts, "gradient_penalty": slope})

    def said_of_both(
        self, model: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The critic's answers: in one pass, which is faster, unless a batch norm has to see both kinds apart."""
        if self.apart is None:
            self.apart = mixes(model)
        if self.apart:
            return said(model, real, labels), said(model, fake, labels)
        both = said(model, torch.cat([real, fake]), None if labels is None else labels.repeat(2))
        on_real, on_fake = both.chunk(2)
        return on_real, on_fake

    def generator_loss(self, model: nn.Module, batch: Batch) -> Loss:
        """The generator's loss: of the batch it reads the number of examples, and their classes."""
        real, labels = batch["inputs"], classes_of(batch)
        fake = self.made(model, sampling.fresh(model, real), labels)
        return Loss(self.game.generator(said(model, fake, labels)), len(real))

    def made(self, model: nn.Module, drawn: Tensor, labels: Tensor | None) -> Tensor:
        """What the generator makes of noise (B, latent), as the critic reads it: (B, *shape)."""
        raw = model.generator(drawn, labels).float()  # type: ignore[operator]
        return self.pixel_range.from_unit((raw.tanh() + 1) / 2) if self.pixel_range.bounded else raw

    @torch.no_grad()
    def _clip(self, model: nn.Module) -> None:
        """Keep the critic's weights within bounds, at the beginning of the critic's turn.

        A turn may change its own parameters only, and this is where the critic's begins: before autocast keeps rounded
        copies of them, and before a graph is built on them. Its scores here are therefore those of bounded weights;
        the generator's turn sees weights that are one step of the optimizer further.
        """
        if self.clip:
            weights = list(model.critic.parameters())  # type: ignore[union-attr]
            torch._foreach_clamp_min_(weights, -self.clip)
            torch._foreach_clamp_max_(weights, self.clip)

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Made-up examples beside real ones of the same classes, and what the critic says of both."""
        real, labels = gathered(batches, MOST)
        drawn = sampling.fixed(model, len(real), Generator().manual_seed(0))
        fake = in_rows(self.made, model, drawn, labels)
        on_real, on_fake = in_rows(said, model, real, labels), in_rows(said, model, fake, labels)
        figures = {
            "loss": self.game.critic(on_real, on_fake),
            "loss_generator": self.game.generator(on_fake),
            "critic_real": on_real.mean(),
            "critic_fake": on_fake.mean(),
            "told_apart": told_apart(on_real, on_fake),
        }
        metrics = {name: float(value) for name, value in figures.items()}
        metrics |= self.quality.measure(self.pixel_range.to_unit(real), self.pixel_range.to_unit(fake))
        if self.in_plane and self.classes and labels is not None:
            metrics |= modes_found(real, labels, fake, self.classes)
        self.real = real[:POINTS] if self.in_plane else None
        return Evaluation(metrics, extra={"critic": {"real": on_real, "made up": on_fake}}, notes=self._notes(metrics))

    def _notes(self, metrics: dict[str, float]) -> list[str]:
        """Modes that are missed, of which there is no warning in the losses."""
        missed = (self.classes or 0) - metrics.get("modes", math.inf)
        return [f"{missed:.0f} of {self.classes} modes are missed"] if missed > 0 else []

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Made-up examples from fixed noise, and the critic's outputs on real and made-up ones."""
        sheet = self.frame(model)
        outputs = Media("critic", charts.histograms(evaluation.extra["critic"], "the critic's outputs"))
        return [outputs] if sheet is None else [Media("samples", sheet), outputs]

    def frame(self, model: nn.Module) -> Tensor | None:
        """Points over those evaluated last, or a sheet of pictures, each class that the generator is told a column."""
        if self.real is not None:
            return self._plane(model, self.real)
        if not (self.pixel_range.bounded and len(self.shape) == 3):
            return None
        told = min(sampling.classes_told(model), MOST_COLUMNS)
        columns = told or COLUMNS
        rows = SHOWN // columns
        drawn = sampling.fixed(model, rows if told else rows * columns, Generator().manual_seed(1))
        drawn = drawn.repeat_interleave(told, 0) if told else drawn
        pictures = in_rows(self.made, model, drawn, sampling.spread(model, len(drawn), columns))
        return grids.images(self.pixel_range.to_unit(pictures), columns)

    def _plane(self, model: nn.Module, real: Tensor) -> Tensor:
        drawn = sampling.fixed(model, len(real), Generator().manual_seed(1))
        fake = in_rows(self.made, model, drawn, sampling.spread(model, len(real)))
        kinds = torch.arange(2).repeat_interleave(len(real))
        return charts.scatter(torch.cat([real, fake]), kinds, ["real", "made up"], "points")

    def generate(self, model: nn.Module, request: GenerateRequest) -> Tensor:
        """Examples of noise, or ways of at most eight steps from one to another, each within one class.

        Raises:
            ConfigError: When examples are given, or a class is wished for that the generator is not told.
        """
        return self.pixel_range.to_unit(in_rows(self.made, model, *sampling.wished(model, request)))

    def _refuse(self, model: nn.Module) -> None:
        if not set(PARTS) <= set(getattr(model, "parts", ())):
            expected = "a model with a generator and a critic, such as gan or dcgan, for task=adversarial"
            raise ConfigError(format_error("model", expected, type(model).__name__))
        if self.penalty and mixes(model):
            hint = "The penalty is on the gradient of each example by itself; a batch norm mixes them."
            raise ConfigError(
                format_error("model.critic_norm", "layer or none beside a gradient penalty", "batch", hint)
            )


def said(model: nn.Module, examples: Tensor, labels: Tensor | None) -> Tensor:
    """The critic's answers, (B,), in full precision."""
    return model.critic(examples, labels).float().squeeze(1)  # type: ignore[operator]


def mixes(model: nn.Module) -> bool:
    """Whether what the critic says of one example depends on the others in a batch."""
    critic: nn.Module = model.critic  # type: ignore[assignment]
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in critic.modules())


def told_apart(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """The share of all pairs in which the real example is preferred; half of those that it cannot tell apart."""
    apart = on_real[:, None] - on_fake
    return ((apart.sign() + 1) / 2).mean()
