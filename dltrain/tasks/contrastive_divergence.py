"""Contrastive divergence for restricted Boltzmann machines."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from dltrain.errors import ConfigError
from dltrain.metrics.running import Mean
from dltrain.plots import grids
from dltrain.tasks import rbm
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Loss, Media, Stage, Task, check_parts
from dltrain.tasks.pixel_range import PixelRange

GENERATE_STEPS = 1000  # Gibbs steps from noise to a generated example
FRAME_STEPS = 100  # Gibbs steps from noise to a sample that is shown during training
NUM_SAMPLES = 64  # samples in a grid
NUM_RECONSTRUCTED = 16  # examples that are shown with their reconstructions


@dataclass(eq=False)
class ContrastiveDivergence(Task):
    """Contrastive divergence: raise the probability of the data and lower the probability of the model's samples.

    Pixels from black (0) to white (1) are probabilities in training; likelihoods are computed on rounded pixels.

    Metrics, in nats per example: ``pseudo_log_likelihood``, the main metric; ``reconstruction``, the cross-entropy of
    the mean-field reconstruction; ``free_energy``, which shows overfitting when it is higher for ``val`` than for
    ``train``; ``loss``, the free energy of the data minus the free energy after ``cd_steps`` Gibbs steps from the data;
    and, for RBMs with at most 16 units on one side, ``nll``, the exact negative log-likelihood.

    Args:
        low, high: Model inputs for black and white, one number per channel.
        cd_steps: Gibbs steps per update, at least 1: the k of CD-k.
        persistent: Continue the Gibbs chains of the previous update, instead of starting them at the data.

    Source: Hinton 2002, "Training products of experts by minimizing contrastive divergence"; Tieleman 2008.
    """

    metric = "pseudo_log_likelihood"
    better = "max"

    shape: list[int]
    low: list[float]
    high: list[float]
    cd_steps: int = 1
    persistent: bool = False

    def __post_init__(self) -> None:
        self.pixel_range = PixelRange(self.low, self.high)
        self.chains = rbm.GibbsChains(self.cd_steps, self.persistent)

    def facts(self) -> dict[str, Any]:
        """Return the spec value for an RBM: ``visible``, its number of visible units, one per pixel and channel."""
        return {"visible": math.prod(self.shape)}

    def stages(self, model: nn.Module) -> list[Stage]:
        """Return one stage. Raise ConfigError if the model is not an RBM."""
        expected = "a model with modules up and down, such as rbm, for task=contrastive_divergence"
        check_parts(model, ("up", "down"), expected)
        return super().stages(model)

    def begin(self, model: nn.Module) -> None:
        """Create new chains."""
        self.chains = rbm.GibbsChains(self.cd_steps, self.persistent)

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Return the free energy of the data minus the free energy of the chains."""
        return self.chains.loss(model, self._visible(batch["inputs"]), batch.get("rows"))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Return the metrics, computed with the same random numbers in each evaluation."""
        mean, noise, first = Mean(), Generator().manual_seed(0), None
        for batch in batches:
            visible = self._visible(batch["inputs"])
            mean.add(len(visible), **self._batch_metrics(model, visible, noise))
            first = visible[:NUM_RECONSTRUCTED] if first is None else first
        metrics = mean.read()
        if "nll" in metrics:
            metrics["nll"] += float(rbm.log_partition(model))
        return Evaluation(metrics, extra={"visible": first})

    def _batch_metrics(self, model: rbm.RBM, visible: Tensor, noise: Generator) -> dict[str, Tensor]:
        """Return the metrics of one batch; ``nll`` does not include ``log Z``."""
        states, energy = visible.round(), rbm.free_energy(model, visible)
        samples = rbm.gibbs(model, visible, self.cd_steps, noise)
        each = {
            "loss": energy - rbm.free_energy(model, samples),
            "pseudo_log_likelihood": rbm.pseudo_log_likelihood(model, states, noise),
            "reconstruction": rbm.reconstruction_error(model, visible),
            "free_energy": energy,
        }
        if min(model.up.weight.shape) <= rbm.MAX_EXACT_UNITS:
            with torch.autocast(visible.device.type, enabled=False):
                each["nll"] = rbm.free_energy(model, states)
        return {name: values.mean() for name, values in each.items()}

    def show(self, model: rbm.RBM, evaluation: Evaluation) -> list[Media]:
        """Return the weights as filters, samples from fixed noise, and examples above their reconstructions."""
        visible = evaluation.extra["visible"]
        rows = zip(self._images(visible).split(8), self._reconstruct(model, visible).split(8), strict=True)
        return [
            Media("filters", grids.filters(self._images(model.up.weight))),
            Media("samples", self.frame(model)),
            Media("reconstructions", grids.images(torch.cat([row for pair in rows for row in pair]))),
        ]

    def frame(self, model: rbm.RBM) -> Tensor:
        """Return a grid of samples after 100 Gibbs steps from fixed noise."""
        hidden = rbm.sample_from_noise(model, NUM_SAMPLES, FRAME_STEPS, Generator().manual_seed(0))
        return grids.images(self._decode(model, hidden))

    def generate(self, model: rbm.RBM, request: GenerateRequest) -> Tensor:
        """Return pixel probabilities after 1,000 Gibbs steps from noise, or reconstructions of given examples."""
        check_request(request)
        if request.given is None:
            return self._decode(model, rbm.sample_from_noise(model, request.count, GENERATE_STEPS, request.noise))
        return self._reconstruct(model, self._visible(request.given.to(request.device)))

    def _reconstruct(self, model: rbm.RBM, visible: Tensor) -> Tensor:
        return self._decode(model, model.up(visible).float().sigmoid())

    def _decode(self, model: rbm.RBM, hidden: Tensor) -> Tensor:
        return self._images(model.down(hidden).float().sigmoid())

    def _visible(self, inputs: Tensor) -> Tensor:
        return self.pixel_range.to_unit(inputs).flatten(1)

    def _images(self, visible: Tensor) -> Tensor:
        return visible.unflatten(1, self.shape)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the persistent chains."""
        return {"chains": self.chains.visible}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the persistent chains."""
        self.chains.visible = state["chains"]


def check_request(request: GenerateRequest) -> None:
    """Raise ConfigError if RBMs do not support a request."""
    if request.label is not None:
        raise ConfigError("--class: not supported because this model is not conditional")
    if request.interpolate:
        raise ConfigError("--interpolate: not supported for RBMs, which have no continuous latent space")
