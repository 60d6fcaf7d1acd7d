"""Autoencoders: plain, denoising, sparse and contractive."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, choose, format_error
from dltrain.keyed_random import normal, uniform
from dltrain.metrics.running import Covariance, Mean
from dltrain.tasks.autoencoder_base import Autoencoding, CollectedExamples, decode, encode
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Loss
from dltrain.tasks.sampling import apply_in_batches, class_labels, first_examples

DISTANCES = {name: name for name in ("mse", "bernoulli")}
CORRUPTIONS = {name: name for name in ("none", "gaussian", "masking", "salt_and_pepper")}
CODES = {"identity": nn.Identity, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
NUM_FITTED = 10_000  # training examples whose codes the Gaussian is fitted to
MAX_COMPONENTS_SIZE = 2_048  # largest size of an example for which an evaluation computes principal components


@dataclass(eq=False)
class Reconstruction(Autoencoding):
    """Autoencoder: distance between examples and their reconstructions, summed over the values of an example.

    A weight of 0 disables a penalty. The sparsity penalty uses mean activities; other terms are means over examples.

    Args:
        distance: ``mse``, squared error, or ``bernoulli``, cross-entropy of values in [0, 1], in nats.
        code: Activation function of the code: ``identity``, ``relu``, ``sigmoid`` or ``tanh``.
        corruption: Corruption of the inputs. ``gaussian`` adds noise of standard deviation ``amount``; ``masking`` sets
            each value with probability ``amount`` to 0 (black), ``salt_and_pepper`` to black or white.
        amount: Standard deviation of gaussian noise (pixels are in [0, 1]), or fraction of corrupted values.
        sparsity: Weight of the divergence of each unit's mean activity from ``sparsity_target``; needs a sigmoid code.
        sparsity_target: Mean activity of each unit of a sparse code, in (0, 1).
        latent_l1: Weight of the sum of the absolute values of the code.
        contraction: Weight of the squared Frobenius norm of the Jacobian of the code with respect to the inputs.

    Source: denoising, Vincent et al. 2010, section 3.3; sparse, Ng 2011, "Sparse autoencoder", section 3; contractive,
    Rifai et al. 2011, equation 2.
    """

    statistics: ClassVar[int] = 1

    distance: str = "mse"
    code: str = "identity"
    corruption: str = "none"
    amount: float = 0.25
    sparsity: float = 0.0
    sparsity_target: float = 0.05
    latent_l1: float = 0.0
    contraction: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("task.distance", self.distance, DISTANCES)
        choose("task.corruption", self.corruption, CORRUPTIONS)
        self.activation = choose("task.code", self.code, CODES)()
        if self.sparsity and self.code != "sigmoid":
            expected = "sigmoid, because task.sparsity needs activities from 0 to 1"
            raise ConfigError(format_error("task.code", expected, self.code))
        if self.corruption in ("masking", "salt_and_pepper") and self.amount > 1:
            expected = f"a fraction from 0 to 1 for task.corruption={self.corruption}"
            raise ConfigError(format_error("task.amount", expected, self.amount))
        if not self.pixel_range.bounded and self.distance == "bernoulli":
            raise ConfigError(format_error("task.distance", "mse for data other than images", self.distance))
        if not self.pixel_range.bounded and self.corruption == "salt_and_pepper":
            expected = "gaussian or masking for data other than images"
            raise ConfigError(format_error("task.corruption", expected, self.corruption))

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the distance for corrupted inputs plus the penalties."""
        unit, labels = self.pixel_range.to_unit(batch["inputs"]), class_labels(batch)
        inputs = self.visible(batch)
        if self.contraction:
            # A compiled encoder does not support the second derivative of the penalty.
            inputs = inputs.detach().requires_grad_()
            code = self.activation(model.encoder.forward(inputs, labels).float())  # type: ignore[union-attr]
        else:
            code = self.codes(model, inputs, labels)
        distance = self.distances(decode(model, code, labels), unit).mean()
        penalties = dict(self._penalties(code, inputs))
        total = torch.stack([distance, *penalties.values()]).sum() if penalties else distance
        return Loss(total, len(unit), {"reconstruction": distance, **penalties} if penalties else {})

    def _penalties(self, code: Tensor, inputs: Tensor) -> Iterable[tuple[str, Tensor]]:
        if self.sparsity:
            yield "sparsity", self.sparsity * sparsity_divergence(code.mean(0), self.sparsity_target)
        if self.latent_l1:
            yield "latent_l1", self.latent_l1 * code.abs().sum(1).mean()
        if self.contraction:
            yield "contraction", self.contraction * squared_jacobian(code, inputs).mean()

    def codes(self, model: nn.Module, inputs: Tensor, labels: Tensor | None) -> Tensor:
        """Return the code of each example, (B, latent)."""
        return self.activation(encode(model, inputs, labels))

    def distances(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the distance between each target and its reconstruction, (B,), from the decoder's output."""
        if self.distance == "bernoulli":
            each = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        else:
            each = (self.to_data_range(outputs) - targets).square()
        return each.flatten(1).sum(1)

    def visible(self, batch: Batch) -> Tensor:
        """Return the encoder's inputs: the corrupted examples, or the examples if there is no corruption."""
        return batch["inputs" if self.corruption == "none" else "corrupted"]

    def corrupt(self, batch: Batch, keys: Tensor) -> Batch:
        """Add corrupted examples as ``corrupted``; ``inputs`` are unchanged."""
        if self.corruption == "none":
            return batch
        unit = self.pixel_range.to_unit(batch["inputs"])
        if self.corruption == "gaussian":
            noisy = unit + self.amount * normal(keys, self.size).view(unit.shape)
            return {**batch, "corrupted": self.pixel_range.from_unit(noisy)}
        noise = uniform(keys, self.size).view(unit.shape)
        # Salt and pepper: half of the corrupted values are black, half white.
        white = self.corruption == "salt_and_pepper"
        replacement = (noise < 0.5 * self.amount).to(unit.dtype) if white else torch.zeros_like(unit)
        return {**batch, "corrupted": self.pixel_range.from_unit(torch.where(noise < self.amount, replacement, unit))}

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return the distance for corrupted inputs, and the squared error per value for uncorrupted inputs.

        The baseline is the best linear autoencoder with a code of the same size: the principal components of the
        evaluated examples. It is left out for examples of more than 2,048 values.
        """
        mean, collected = Mean(), CollectedExamples()
        components = Covariance() if self.size <= MAX_COMPONENTS_SIZE else None
        corrupted = self.corruption != "none"
        for batch in batches:
            unit, labels = self.pixel_range.to_unit(batch["inputs"]), class_labels(batch)
            code = self.codes(model, batch["inputs"], labels)
            outputs = decode(model, code, labels)
            mse = (self.to_data_range(outputs) - unit).square().mean()
            if corrupted:
                outputs = decode(model, self.codes(model, self.visible(batch), labels), labels)
            mean.add(len(unit), loss=self.distances(outputs, unit).mean(), mse=mse)
            if not collected.examples:
                versions = [self.pixel_range.to_unit(self.visible(batch))] if corrupted else []
                collected.add_examples(unit, *versions, self.to_data_range(outputs))
            collected.add_codes(code, labels)
            if components is not None:
                components.add(unit.flatten(1))
        return Evaluation(mean.read(), self._baseline(components, code.shape[1]), {"collected": collected})

    def _baseline(self, components: Covariance | None, latent: int) -> dict[str, dict[str, float]]:
        if components is None:
            return {}
        error = components.residual(latent)
        loss = {"loss": error} if self.distance == "mse" and self.corruption == "none" else {}
        return {f"{latent} principal components": {**loss, "mse": error / self.size}}

    def sample_codes(self, model: nn.Module, request: GenerateRequest, count: int) -> Tensor:
        """Draw codes from a Gaussian fitted to the codes of the training examples.

        An autoencoder has no prior. If the codes of the data are not normally distributed, codes drawn here may
        decode to unrealistic examples.
        """
        codes = self._training_codes(model, request)
        mean = codes.mean(0)
        covariance = (codes - mean).T @ (codes - mean) / len(codes)
        variances, axes = torch.linalg.eigh(covariance)
        standard = torch.randn(count, len(mean), generator=request.noise, dtype=torch.double)
        return (mean + standard * variances.clamp(min=0).sqrt() @ axes.T).float().to(request.device)

    def sample_endpoints(self, model: nn.Module, request: GenerateRequest, count: int) -> Tensor:
        """Draw codes of training examples."""
        codes = self._training_codes(model, request)
        chosen = torch.randint(len(codes), (count,), generator=request.noise)
        return codes[chosen].float().to(request.device)

    def _training_codes(self, model: nn.Module, request: GenerateRequest) -> Tensor:
        """Return codes of training examples, in double precision on the CPU."""
        inputs, labels = first_examples(request.train(), NUM_FITTED)
        return apply_in_batches(lambda *part: self.codes(*part).double().cpu(), model, inputs, labels)


def sparsity_divergence(means: Tensor, target: float) -> Tensor:
    """Return the KL divergence between Bernoulli activities of mean ``target`` and ``means``, summed over units.

    Source: Ng 2011, "Sparse autoencoder", section 3.
    """
    means = means.clamp(1e-6, 1 - 1e-6)
    return (target * (target / means).log() + (1 - target) * ((1 - target) / (1 - means)).log()).sum()


def squared_jacobian(code: Tensor, inputs: Tensor) -> Tensor:
    """Return the exact squared Frobenius norm of dcode/dinputs, (B,), with one batched backward pass.

    Args:
        code: (B, D), each row computed from the same row of ``inputs`` alone.
        inputs: (B, ...), a leaf that requires gradients.

    Source: Rifai et al. 2011, "Contractive auto-encoders", equation 1.
    """
    count, numbers = code.shape
    directions = torch.eye(numbers, device=code.device, dtype=code.dtype)[:, None].expand(-1, count, -1)
    (jacobian,) = torch.autograd.grad(code, inputs, directions, create_graph=True, is_grads_batched=True)
    return jacobian.flatten(2).square().sum((0, 2))
