"""Learn a distribution of binary units: contrastive divergence."""

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.running import Mean
from dltrain.plots import grids
from dltrain.tasks import rbm
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Loss, Media, Stage, Task
from dltrain.tasks.pixel_range import PixelRange

DREAM = 1000  # Gibbs steps from noise to an example of `generate`
GLANCE = 100  # and to one that is shown while training
SHOWN = 64
AGAIN = 16  # examples that are shown beside their reconstructions


class ContrastiveDivergence(Task):
    """Raise the probability of the data and lower that of what the model makes up, for a restricted Boltzmann machine.

    Pixels from black (0) to white (1) are taken for probabilities in training; likelihoods are those of pixels rounded
    to 0 or 1. Metrics, all in nats per example: ``pseudo_log_likelihood``, which is watched; ``reconstruction``, the
    cross-entropy of one way up and down; ``free_energy``, which tells of overfitting where that of ``val`` rises above
    that of ``train``; ``loss``, the gap in free energy between the data and the chains that leave them for ``cd_steps``
    steps; and, where one side has at most 16 units, ``nll``, the exact negative log-likelihood.

    Args:
        shape: Of one example.
        low: What a model reads for black, one number per channel.
        high: What it reads for white, likewise.
        cd_steps: Gibbs steps of the chains per loss, at least 1: the k of CD-k.
        persistent: Chains go on from step to step instead of beginning at the data.

    Source: Hinton 2002, "Training products of experts by minimizing contrastive divergence"; Tieleman 2008.
    """

    metric: ClassVar[str] = "pseudo_log_likelihood"
    better: ClassVar[Literal["min", "max"]] = "max"

    def __init__(
        self, shape: list[int], low: list[float], high: list[float], cd_steps: int = 1, persistent: bool = False
    ) -> None:
        self.shape, self.pixel_range = tuple(shape), PixelRange(low, high)
        self.cd_steps, self.persistent = cd_steps, persistent
        self.chains = rbm.Chains(cd_steps, persistent)

    def facts(self) -> dict[str, Any]:
        """Visible units, one per pixel, and no outputs."""
        return {"visible": math.prod(self.shape), "outputs": None, "each_step": False, "causal": False}

    def stages(self, model: nn.Module) -> list[Stage]:
        """One, whose chains have yet to begin.

        Raises:
            ConfigError: For a model that is no machine.
        """
        rbm.refuse_others("contrastive_divergence", model)
        self.chains = rbm.Chains(self.cd_steps, self.persistent)
        return super().stages(model)

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Free energy of the data, less that of the chains."""
        return self.chains.loss(model, self._visible(batch["inputs"]))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """Likelihoods and reconstruction; the same random numbers in each evaluation."""
        mean, noise, shown = Mean(), Generator().manual_seed(0), None
        for batch in batches:
            visible = self._visible(batch["inputs"])
            mean.add(len(visible), **self._figures(model, visible, noise))
            shown = visible[:AGAIN] if shown is None else shown
        metrics = mean.read()
        if "nll" in metrics:
            metrics["nll"] += float(rbm.log_partition(model))
        return Evaluation(metrics, extra={"visible": shown})

    def _figures(self, model: rbm.Machine, visible: Tensor, noise: Generator) -> dict[str, Tensor]:
        """The means of one batch; of ``nll`` without the partition function."""
        states, energy = visible.round(), rbm.free_energy(model, visible)
        left = rbm.gibbs(model, visible, self.cd_steps, noise)
        each = {
            "loss": energy - rbm.free_energy(model, left),
            "pseudo_log_likelihood": rbm.pseudo_log_likelihood(model, states, noise),
            "reconstruction": rbm.reconstruction(model, visible),
            "free_energy": energy,
        }
        if rbm.countable(model):
            with torch.autocast(visible.device.type, enabled=False):
                each["nll"] = rbm.free_energy(model, states)
        return {name: values.mean() for name, values in each.items()}

    def show(self, model: rbm.Machine, evaluation: Evaluation) -> list[Media]:
        """The weights as filters, what chains from noise have come to, and reconstructions below their originals."""
        visible = evaluation.extra["visible"]
        rows = zip(self._pictures(visible).split(8), self._again(model, visible).split(8), strict=True)
        return [
            Media("filters", grids.filters(self._pictures(model.up.weight))),
            Media("samples", self.frame(model)),
            Media("reconstructions", grids.images(torch.cat([row for pair in rows for row in pair]))),
        ]

    def frame(self, model: rbm.Machine) -> Tensor:
        """What chains that always begin at the same noise have come to after 100 Gibbs steps."""
        hidden = rbm.dream(model, SHOWN, GLANCE, Generator().manual_seed(0))
        return grids.images(self._below(model, hidden))

    def generate(self, model: rbm.Machine, request: GenerateRequest) -> Tensor:
        """Probabilities of the pixels after 1,000 Gibbs steps from noise; of given examples, their reconstructions.

        Raises:
            ConfigError: For a class, which the model does not know, or a way from one example to another.
        """
        refuse_unknown(request)
        if request.given is None:
            return self._below(model, rbm.dream(model, request.count, DREAM, request.noise))
        return self._again(model, self._visible(request.given.to(request.device)))

    def _again(self, model: rbm.Machine, visible: Tensor) -> Tensor:
        """Reconstructions."""
        return self._below(model, model.up(visible).float().sigmoid())

    def _below(self, model: rbm.Machine, hidden: Tensor) -> Tensor:
        """Probabilities of the pixels."""
        return self._pictures(model.down(hidden).float().sigmoid())

    def _visible(self, inputs: Tensor) -> Tensor:
        return self.pixel_range.to_unit(inputs).flatten(1)

    def _pictures(self, visible: Tensor) -> Tensor:
        return visible.unflatten(1, self.shape)

    def state_dict(self) -> dict[str, Any]:
        """Where the persistent chains are."""
        return {"chains": self.chains.visible}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let them go on from there."""
        self.chains.visible = state["chains"]


def refuse_unknown(request: GenerateRequest) -> None:
    """Refuse what a machine of binary units has no way to do.

    Raises:
        ConfigError: Saying why.
    """
    if request.label is not None:
        raise ConfigError(format_error("--class", "none, as this model is told no classes", request.label))
    if request.interpolate:
        why = "Its hidden units are 0 or 1 and drawn anew in each step, so that nothing lies between two examples."
        raise ConfigError(
            format_error("--interpolate", "no such flag for a model without a code of numbers", "it", why)
        )
