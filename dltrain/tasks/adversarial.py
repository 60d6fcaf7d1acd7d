"""Adversarial training of a generator and a critic."""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from dltrain.errors import ConfigError, choose, format_error
from dltrain.metrics.mode_coverage import modes_found
from dltrain.metrics.sample_quality import Quality
from dltrain.plots import charts, grids
from dltrain.tasks import sampling
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Loss, Media, Stage, Task, Turn, check_parts
from dltrain.tasks.gan_losses import GAN_LOSSES, gradient_penalty
from dltrain.tasks.pixel_range import PixelRange
from dltrain.tasks.sampling import apply_in_batches, class_labels

MAX_EVALUATED = 2_000  # maximum number of examples to evaluate; precision and recall compare all pairs
GRID_IMAGES, GRID_COLUMNS, MAX_COLUMNS = 64, 8, 16  # size of a grid of samples
PLOTTED_POINTS = 1_000  # maximum number of real points in a scatter plot, which has as many generated points
PENALTY = 10.0  # Gulrajani et al. 2017, section 4


@dataclass(eq=False)
class Adversarial(Task):
    """Adversarial training: a critic learns to separate real from generated samples, a generator to fool the critic.

    Each step updates the critic; every ``n_critic``-th step then updates the generator on the same batch. Each update
    draws new noise. A critic with batch norm sees real and generated examples in separate passes (Radford et al. 2016).
    For images, tanh is applied to the generator's output, and the result is mapped to the range from black to white;
    for other data, the output is used unchanged.

    Metrics, over at most 2,000 examples of a split and the same number generated from fixed noise:

    - the scores of `Quality`; ``frechet`` is the goal;
    - ``loss`` and ``loss_generator``, the losses of critic and generator, which measure the balance of the two networks
      and not quality (for ``wasserstein``, ``-loss`` estimates the distance between the distributions);
    - ``critic_real`` and ``critic_fake``, the mean outputs of the critic, and ``critic_auc``;
    - for 2-D points with classes, the scores of `modes_found`; ``coverage`` is the goal, because the Fréchet distance
      compares only mean and covariance and does not detect missing modes.

    Args:
        low, high: Model inputs for black and white, one number per channel; None for data without bounds.
        loss_name: ``non_saturating``, ``least_squares``, ``hinge`` or ``wasserstein``.
        clip: Bound on the absolute values of the critic's weights; 0 to disable.
        penalty: Weight of the critic's gradient penalty. None selects 10 for ``wasserstein`` without ``clip``, and 0
            otherwise.
        n_critic: Updates of the critic per update of the generator.
        features: Run folder of the classifier whose features `Quality` compares; None for the examples themselves.

    Source: Goodfellow et al. 2014, algorithm 1; losses: see `gan_losses`; clipping: Arjovsky et al. 2017, algorithm 1;
    penalty: Gulrajani et al. 2017; two learning rates: Heusel et al. 2017.
    """

    metric = "frechet"

    shape: list[int]
    low: list[float] | None = None
    high: list[float] | None = None
    classes: int | None = None
    class_names: list[str] | None = None
    loss_name: str = "non_saturating"
    clip: float = 0.0
    penalty: float | None = None
    n_critic: int = 1
    critic_lr: float | None = None
    generator_lr: float | None = None
    features: str | None = None

    def __post_init__(self) -> None:
        self.pixel_range = PixelRange(self.low, self.high)
        self.quality: Quality = Quality()
        self.losses = choose("task.loss_name", self.loss_name, GAN_LOSSES)
        if self.penalty is None:
            self.penalty = PENALTY if self.loss_name == "wasserstein" and not self.clip else 0.0
        self.is_2d = tuple(self.shape) == (2,)
        self.separate: bool | None = None  # whether real and generated examples need separate passes
        self.real_points: Tensor | None = None  # of the latest evaluation, for the scatter plot
        if self.is_2d and self.classes:
            self.metric, self.better = "coverage", "max"  # type: ignore[misc]  # the goal depends on the data

    def facts(self) -> dict[str, Any]:
        """Return the spec values for the model: one output of the critic per example."""
        return {"answers": 1}

    def stages(self, model: nn.Module) -> list[Stage]:
        """Return one stage, which updates the critic in every step and the generator in every ``n_critic``-th step."""
        expected = "a model with a generator and a critic, such as gan or dcgan, for task=adversarial"
        check_parts(model, ("generator", "critic"), expected)
        if self.penalty and has_batch_norm(model):
            hint = "The penalty needs the gradient of each example, but batch norm mixes examples."
            raise ConfigError(format_error("model.critic_norm", "layer or none with task.penalty", "batch", hint))
        critic, generator = (
            [p for p in getattr(model, name).parameters() if p.requires_grad] for name in ("critic", "generator")
        )
        generator_loss = functools.partial(self.generator_loss, model)
        first = Turn("critic", critic, functools.partial(self.loss, model), lr=self.critic_lr)
        return [Stage("train", [first, Turn("generator", generator, generator_loss, self.n_critic, self.generator_lr)])]

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the critic's loss, without gradients for the generator."""
        real, labels = batch["inputs"], class_labels(batch)
        self._clip_weights(model)
        with torch.no_grad():
            fake = self.sample(model, sampling.training_noise(model, real), labels)
        # Compute the penalty before the outputs: each forward pass updates the buffers of spectral norm in place, and a
        # compiled critic saves these buffers for its backward pass.
        penalty = gradient_penalty(model, real, fake, labels) if self.penalty else None
        if self.separate is None:
            self.separate = has_batch_norm(model)
        if self.separate:
            on_real, on_fake = critic_output(model, real, labels), critic_output(model, fake, labels)
        else:  # one pass is faster
            both = critic_output(model, torch.cat([real, fake]), None if labels is None else labels.repeat(2))
            on_real, on_fake = both.chunk(2)
        total = self.losses.critic(on_real, on_fake)
        parts = {"critic_real": on_real.mean(), "critic_fake": on_fake.mean()}
        if self.penalty and penalty is not None:
            total, parts["gradient_penalty"] = total + self.penalty * penalty, penalty
        return Loss(total, len(real), parts)

    def generator_loss(self, model: nn.Module, batch: Batch, progress: float = 0.0) -> Loss:
        """Return the generator's loss on as many generated examples as the batch has, with the same classes."""
        real, labels = batch["inputs"], class_labels(batch)
        fake = self.sample(model, sampling.training_noise(model, real), labels)
        return Loss(self.losses.generator(critic_output(model, fake, labels)), len(real))

    def sample(self, model: nn.Module, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Generate examples from noise, in the range of the model's inputs: (B, latent) -> (B, *shape)."""
        raw = model.generator(noise, labels).float()  # type: ignore[operator]
        return self.pixel_range.from_unit((raw.tanh() + 1) / 2) if self.pixel_range.bounded else raw

    @torch.no_grad()
    def _clip_weights(self, model: nn.Module) -> None:
        """Clip the critic's weights.

        Weights are clipped before the loss is computed, because autocast and autograd save them in the forward pass.
        The generator's loss therefore uses critic weights that were updated once after they were clipped.
        """
        if self.clip:
            weights = list(model.critic.parameters())  # type: ignore[union-attr]
            torch._foreach_clamp_min_(weights, -self.clip)
            torch._foreach_clamp_max_(weights, self.clip)

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return losses, and scores of generated examples in comparison with real examples of the same classes."""
        real, labels = sampling.first_examples(batches, MAX_EVALUATED)
        noise = sampling.reproducible_noise(model, len(real), Generator().manual_seed(0))
        fake = apply_in_batches(self.sample, model, noise, labels)
        on_real, on_fake = (apply_in_batches(critic_output, model, examples, labels) for examples in (real, fake))
        values = {
            "loss": self.losses.critic(on_real, on_fake),
            "loss_generator": self.losses.generator(on_fake),
            "critic_real": on_real.mean(),
            "critic_fake": on_fake.mean(),
            "critic_auc": critic_auc(on_real, on_fake),
        }
        metrics = {name: float(value) for name, value in values.items()}
        metrics |= self.quality.measure(self.pixel_range.to_unit(real), self.pixel_range.to_unit(fake))
        if self.is_2d and self.classes and labels is not None:
            metrics |= modes_found(real, labels, fake, self.classes)
        self.real_points = real[:PLOTTED_POINTS] if self.is_2d else None
        missed = (self.classes or 0) - metrics.get("modes", math.inf)
        notes = [f"the generator misses {missed:.0f} of {self.classes} modes"] if missed > 0 else []
        return Evaluation(metrics, extra={"critic": {"real": on_real, "generated": on_fake}}, notes=notes)

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return samples from fixed noise, and histograms of the critic's outputs."""
        samples = self.frame(model)
        outputs = Media("critic", charts.histograms(evaluation.extra["critic"], "outputs of the critic"))
        return [outputs] if samples is None else [Media("samples", samples), outputs]

    def frame(self, model: nn.Module) -> Tensor | None:
        """Return a scatter plot of generated and real points, a grid of generated images, or None for other data.

        For a conditional model, the grid has one column per class, at most 16.
        """
        if self.real_points is not None:
            return self._scatter(model, self.real_points)
        if not (self.pixel_range.bounded and len(self.shape) == 3):
            return None
        classes = min(sampling.num_classes(model), MAX_COLUMNS)
        columns = classes or GRID_COLUMNS
        rows = GRID_IMAGES // columns
        generator = Generator().manual_seed(1)
        noise = sampling.reproducible_noise(model, rows if classes else rows * columns, generator)
        noise = noise.repeat_interleave(classes, 0) if classes else noise
        images = apply_in_batches(self.sample, model, noise, sampling.cyclic_labels(model, len(noise), columns))
        return grids.images(self.pixel_range.to_unit(images), columns)

    def _scatter(self, model: nn.Module, real: Tensor) -> Tensor:
        noise = sampling.reproducible_noise(model, len(real), Generator().manual_seed(1))
        fake = apply_in_batches(self.sample, model, noise, sampling.cyclic_labels(model, len(real)))
        kinds = torch.arange(2).repeat_interleave(len(real))
        return charts.scatter(torch.cat([real, fake]), kinds, ["real", "generated"], "points")

    def generate(self, model: nn.Module, request: GenerateRequest) -> Tensor:
        """Return examples from noise, or interpolation paths of at most eight examples each.

        A conditional model keeps one class per path. The last path may be incomplete.
        """
        if request.given is not None:
            raise ConfigError("--given: not supported because a generator reads only noise")
        paths, steps = sampling.path_layout(request)
        labels = sampling.requested_labels(model, request, paths)
        noise = sampling.reproducible_noise(model, paths, request.noise)
        if request.interpolate:
            end = sampling.reproducible_noise(model, paths, request.noise)
            noise = sampling.slerp_path(noise, end, steps)[: request.count]
            labels = None if labels is None else labels.repeat_interleave(steps)[: request.count]
        return self.pixel_range.to_unit(apply_in_batches(self.sample, model, noise, labels))


def critic_output(model: nn.Module, examples: Tensor, labels: Tensor | None) -> Tensor:
    """Return the critic's outputs, (B,), in full precision."""
    return model.critic(examples, labels).float().squeeze(1)  # type: ignore[operator]


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether the critic has batch norm, so that its output for an example depends on the rest of the batch."""
    critic: nn.Module = model.critic  # type: ignore[assignment]
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in critic.modules())


def critic_auc(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """Return the area under the critic's ROC curve.

    This is the fraction of pairs in which the real example has a larger output; pairs with equal outputs count half.
    """
    difference = on_real[:, None] - on_fake
    return ((difference.sign() + 1) / 2).mean()
