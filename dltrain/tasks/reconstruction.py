"""Learn a code from which examples can be made again: autoencoders, plain, denoising, sparse and contractive."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error, suggest
from dltrain.metrics.running import Components, Mean
from dltrain.tasks.autoencoder_base import Autoencoding, Memory, decode, encode, gathered
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Loss
from dltrain.tasks.told import classes_of

DISTANCES = ("mse", "bernoulli")
CORRUPTIONS = ("none", "gaussian", "masking", "salt_and_pepper")
CODES = {"identity": nn.Identity, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
SEED = 0  # of the corruption at evaluation
FITTED = 10_000  # examples that the Gaussian of the codes is fitted to
WIDEST = 2_048  # numbers per example up to which evaluation computes the principal components


class Reconstruction(Autoencoding):
    """The distance between examples and what is made of their codes, summed over the numbers of an example.

    Penalties are means over examples, and each is off at 0.

    Args:
        shape: Of one example.
        size: Numbers in one example.
        low: What a model reads for black, one number per channel; None for data without bounds.
        high: What it reads for white, likewise.
        class_names: One name per class, for the map of the code.
        distance: ``mse``, squared error, or ``bernoulli``, cross-entropy of numbers from 0 to 1, in nats.
        code: What the encoder's numbers go through: ``identity``, ``relu``, ``sigmoid`` or ``tanh``.
        corruption: What is done to examples before they are encoded. ``gaussian`` adds numbers of deviation ``amount``;
            ``masking`` makes the share ``amount`` of the numbers 0 (black), ``salt_and_pepper`` black or white.
        amount: Of the corruption; on the scale from 0 to 1 for pictures, otherwise as a model reads the data.
        sparsity: Weight of the divergence of each unit's mean activity from ``sparsity_target``; needs a sigmoid code.
        sparsity_target: The share of examples for which a unit of a sparse code is to be active.
        latent_l1: Weight of the sum of the code's absolute values.
        contraction: Weight of the squared norm of the code's Jacobian.

    Raises:
        ConfigError: When a name is unknown, or does not suit the data or the code.

    Source: denoising, Vincent et al. 2010, section 3.3; sparse, Ng 2011, "Sparse autoencoder", section 3; contractive,
    Rifai et al. 2011, equation 2.
    """

    statistics: ClassVar[int] = 1

    def __init__(
        self,
        shape: list[int],
        size: int,
        low: list[float] | None = None,
        high: list[float] | None = None,
        class_names: list[str] | None = None,
        distance: str = "mse",
        code: str = "identity",
        corruption: str = "none",
        amount: float = 0.25,
        sparsity: float = 0.0,
        sparsity_target: float = 0.05,
        latent_l1: float = 0.0,
        contraction: float = 0.0,
    ) -> None:
        super().__init__(shape, size, low, high, class_names)
        choose("distance", distance, DISTANCES)
        choose("corruption", corruption, CORRUPTIONS)
        choose("code", code, CODES)
        self._refuse_unbounded(distance, corruption)
        if sparsity and code != "sigmoid":
            raise ConfigError(format_error("task.code", "sigmoid, as task.sparsity compares shares", code))
        self.distance, self.activation = distance, CODES[code]()
        self.corruption, self.amount = corruption, amount
        self.sparsity, self.sparsity_target, self.latent_l1, self.contraction = (
            sparsity,
            sparsity_target,
            latent_l1,
            contraction,
        )

    def _refuse_unbounded(self, distance: str, corruption: str) -> None:
        if self.pixel_range.bounded:
            return
        if distance == "bernoulli":
            raise ConfigError(format_error("task.distance", "mse for data that are not pictures", distance))
        if corruption == "salt_and_pepper":
            expected = "gaussian or masking for data that are not pictures"
            raise ConfigError(format_error("task.corruption", expected, corruption))

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """The distance after corruption, and the penalties."""
        unit, labels = self.pixel_range.to_unit(batch["inputs"]), classes_of(batch)
        inputs = batch["inputs"] if self.corruption == "none" else self.pixel_range.from_unit(self.corrupted(unit))
        if self.contraction:
            # The penalty is differentiated twice, which a compiled encoder cannot be.
            inputs = inputs.detach().requires_grad_()
            code = self.activation(model.encoder.forward(inputs, labels).float())  # type: ignore[union-attr]
        else:
            code = self.codes(model, inputs, labels)
        distance = self.apart(decode(model, code, labels), unit).mean()
        penalties = dict(self.penalties(code, inputs))
        total = torch.stack([distance, *penalties.values()]).sum() if penalties else distance
        return Loss(total, len(unit), {"reconstruction": distance, **penalties} if penalties else {})

    def penalties(self, code: Tensor, inputs: Tensor) -> Iterable[tuple[str, Tensor]]:
        """What is asked of the code, by name and with its weight."""
        if self.sparsity:
            yield "sparsity", self.sparsity * sparseness(code.mean(0), self.sparsity_target)
        if self.latent_l1:
            yield "latent_l1", self.latent_l1 * code.abs().sum(1).mean()
        if self.contraction:
            yield "contraction", self.contraction * squared_jacobian(code, inputs).mean()

    def codes(self, model: nn.Module, inputs: Tensor, labels: Tensor | None) -> Tensor:
        """The code of each example, (B, latent)."""
        return self.activation(encode(model, inputs, labels))

    def apart(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """The distance of each example, (B,), given the decoder's raw numbers."""
        if self.distance == "bernoulli":
            each = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
        else:
            each = (self.seen(outputs) - wanted).square()
        return each.flatten(1).sum(1)

    def corrupted(self, unit: Tensor, generator: Generator | None = None) -> Tensor:
        """Examples after corruption, with noise from torch's own generator, or from one on the CPU."""

        def draw(kind: str) -> Tensor:
            if generator is None:
                return torch.randn_like(unit) if kind == "normal" else torch.rand_like(unit)
            make = torch.randn if kind == "normal" else torch.rand
            return make(unit.shape, generator=generator).to(unit.device)

        if self.corruption == "gaussian":
            return unit + self.amount * draw("normal")
        chance = draw("uniform")
        if self.corruption == "masking":
            return torch.where(chance < self.amount, torch.zeros_like(unit), unit)
        # Of the numbers that are lost, one half is black, the other white.
        return torch.where(chance < self.amount, (chance < 0.5 * self.amount).to(unit.dtype), unit)

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """The distance after a corruption that is the same each time, and the squared error per number without it.

        The baseline is the best linear autoencoder: principal components, as many as the code has numbers, of the very
        examples that are evaluated. It is left out for examples of more than 2,048 numbers.
        """
        generator, mean, memory = torch.Generator().manual_seed(SEED), Mean(), Memory()
        components = Components() if self.size <= WIDEST else None
        for batch in batches:
            unit, labels = self.pixel_range.to_unit(batch["inputs"]), classes_of(batch)
            spoilt = unit if self.corruption == "none" else self.corrupted(unit, generator)
            code = self.codes(model, batch["inputs"], labels)
            made = decode(model, code, labels)
            clean = (self.seen(made) - unit).square().mean()
            if self.corruption != "none":
                made = decode(model, self.codes(model, self.pixel_range.from_unit(spoilt), labels), labels)
            mean.add(len(unit), loss=self.apart(made, unit).mean(), mse=clean)
            if not memory.count:
                memory.keep(unit, *([] if self.corruption == "none" else [spoilt]), self.seen(made))
            memory.add(code, labels)
            if components is not None:
                components.add(unit.flatten(1))
        return Evaluation(mean.read(), self._baseline(components, code.shape[1]), {"memory": memory})

    def _baseline(self, components: Components | None, latent: int) -> dict[str, dict[str, float]]:
        if components is None:
            return {}
        error = components.left_out(latent)
        same = {"loss": error} if self.distance == "mse" and self.corruption == "none" else {}
        return {f"{latent} principal components": {**same, "mse": error / self.size}}

    def drawn(self, model: nn.Module, request: GenerateRequest, labels: Tensor | None, count: int) -> Tensor:
        """Codes from a Gaussian that is fitted to the codes of the training examples.

        An autoencoder knows no distribution of its codes. Theirs need not look like a Gaussian, and where they do not,
        most codes drawn here belong to no example.
        """
        codes = self._known_codes(model, request)
        mean = codes.mean(0)
        covariance = (codes - mean).T @ (codes - mean) / len(codes)
        variances, axes = torch.linalg.eigh(covariance)
        standard = torch.randn(count, len(mean), generator=request.noise, dtype=torch.double)
        return (mean + standard * variances.clamp(min=0).sqrt() @ axes.T).float().to(request.device)

    def ends(self, model: nn.Module, request: GenerateRequest, labels: Tensor | None, count: int) -> Tensor:
        """Codes of training examples, chosen at random."""
        codes = self._known_codes(model, request)
        chosen = torch.randint(len(codes), (count,), generator=request.noise)
        return codes[chosen].float().to(request.device)

    def _known_codes(self, model: nn.Module, request: GenerateRequest) -> Tensor:
        """Codes of training examples, in double precision on the CPU."""
        inputs, labels = gathered(request.train(), FITTED)
        parts = zip(inputs.split(512), [None] * len(inputs) if labels is None else labels.split(512), strict=False)
        return torch.cat([self.codes(model, rows, known).double().cpu() for rows, known in parts])


def choose(key: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not known.

    Raises:
        ConfigError: With the nearest name.
    """
    if name not in known:
        raise ConfigError(format_error(f"task.{key}", f"one of {' '.join(known)}", name, suggest(name, list(known))))


def sparseness(means: Tensor, target: float) -> Tensor:
    """KL of units that are active in the shares ``means`` of all examples from one of share ``target``, summed.

    Source: Ng 2011, "Sparse autoencoder", section 3.
    """
    means = means.clamp(1e-6, 1 - 1e-6)
    return (target * (target / means).log() + (1 - target) * ((1 - target) / (1 - means)).log()).sum()


def squared_jacobian(code: Tensor, inputs: Tensor) -> Tensor:
    """The squared Frobenius norm of dcode/dinputs of each example, (B,), exactly: one backward pass per code number.

    Args:
        code: (B, D), each row computed from the row of ``inputs`` alone.
        inputs: (B, ...), a leaf that requires gradients.

    Source: Rifai et al. 2011, "Contractive auto-encoders", equation 1.
    """
    count, numbers = code.shape
    directions = torch.eye(numbers, device=code.device, dtype=code.dtype)[:, None].expand(-1, count, -1)
    (jacobian,) = torch.autograd.grad(code, inputs, directions, create_graph=True, is_grads_batched=True)
    return jacobian.flatten(2).square().sum((0, 2))
