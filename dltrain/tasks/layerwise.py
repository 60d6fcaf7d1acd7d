"""Greedy layer-wise pretraining without labels, followed by supervised fine-tuning."""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.running import Mean
from dltrain.plots import grids
from dltrain.tasks import rbm
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Goal, Loss, Media, Stage, Turn
from dltrain.tasks.classification import Classification
from dltrain.tasks.contrastive_divergence import FRAME_STEPS, GENERATE_STEPS, NUM_SAMPLES, check_request
from dltrain.tasks.pixel_range import PixelRange


@dataclass(eq=False, kw_only=True)
class Layerwise(Classification):
    """Layer-wise pretraining: each layer learns to model the units of the layer below; then all layers are fine-tuned.

    Stage ``layer1`` trains the lowest layer on all training examples, stage ``layer2`` the next, and so on, with all
    other layers frozen. The metric of stage ``layer1`` is ``reconstruction_layer1``, the cross-entropy between the
    inputs of the layer and their reconstruction, in nats per example. Stage ``fine_tuning`` trains the upward weights
    and the output layer by cross-entropy on the labeled examples.

    Args:
        shape: Shape of an image (C, H, W).
        low, high: Model inputs for black and white, one number per channel; the layers read numbers from 0 (black) to 1
            (white).
        method: ``contrastive_divergence`` for restricted Boltzmann machines, or ``denoising`` for autoencoders with
            tied weights.
        cd_steps: Gibbs steps per update of ``contrastive_divergence``.
        persistent: Whether ``contrastive_divergence`` continues the Gibbs chains of the previous update.
        noise: Probability that ``denoising`` sets a unit to 0.
        pretrain_epochs: Epochs per layer; 0 for no pretraining.
        pretrain_lr: Learning rate of pretraining; None for the optimizer's learning rate.

    Source: Hinton, Osindero and Teh 2006, "A fast learning algorithm for deep belief nets"; Bengio, Lamblin, Popovici
    and Larochelle 2007, "Greedy layer-wise training of deep networks"; Vincent et al. 2010, "Stacked denoising
    autoencoders".
    Differs: layers read the probabilities of the units below, not sampled states.
    """

    shape: list[int]
    low: list[float]
    high: list[float]
    method: Literal["contrastive_divergence", "denoising"] = "contrastive_divergence"
    cd_steps: int = 1
    persistent: bool = False
    noise: float = 0.25
    pretrain_epochs: int = 10
    pretrain_lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pixel_range = PixelRange(self.low, self.high)
        self.chains: list[rbm.GibbsChains] = []

    def facts(self) -> dict[str, Any]:
        """Return the spec value for a DBN: ``lowest``, its number of inputs, one per pixel and channel.

        Other models need spec values that this task does not provide, and are therefore rejected.
        """
        return {"lowest": math.prod(self.shape)}

    # --- pretraining ------------------------------------------------------------------------------------------------

    def stages(self, model: rbm.RBM) -> list[Stage]:
        """Return one stage per layer, lowest first (none without pretraining), and one for fine-tuning."""
        layers = rbm_layers(model)
        upward = [p for layer in layers for p in layer.up.parameters()] + list(model.head.parameters())
        fine_tuning = Turn("train", upward, lambda batch, progress: self.loss(model, batch, progress))
        pretraining = [self._pretraining_stage(layers, number) for number in range(len(layers))]
        return [*(pretraining if self.pretrain_epochs else []), Stage("fine_tuning", [fine_tuning])]

    def begin(self, model: nn.Module) -> None:
        """Create new chains for each layer."""
        self.chains = [rbm.GibbsChains(self.cd_steps, self.persistent) for _ in rbm_layers(model)]

    def _pretraining_stage(self, layers: list[rbm.RBM], number: int) -> Stage:
        name = f"layer{number + 1}"
        loss = functools.partial(self._layer_loss, layers, number)
        turn = Turn(name, list(layers[number].parameters()), loss, lr=self.pretrain_lr)
        evaluate = functools.partial(self._evaluate_layer, number)
        goal = Goal(f"reconstruction_{name}", "min", evaluate, self._show_layers)
        return Stage(name, [turn], self.pretrain_epochs, "unlabeled", goal)

    def _layer_loss(self, layers: list[rbm.RBM], number: int, batch: Batch, progress: float) -> Loss:
        """Return the loss of one layer.

        Source: Vincent et al. 2010, sections 3.3 (denoising) and 3.4 (masking noise).
        """
        inputs = self._layer_inputs(layers, number, batch)
        if self.method == "contrastive_divergence":
            loss = self.chains[number].loss(layers[number], inputs, batch.get("rows"))
            return loss._replace(parts={f"free_energy_layer{number + 1}": loss.parts["free_energy"]})
        masked = inputs * (torch.rand_like(inputs) >= self.noise)
        return Loss(rbm.reconstruction_error(layers[number], inputs, masked).mean(), len(inputs))

    @torch.no_grad()
    def _layer_inputs(self, layers: list[rbm.RBM], number: int, batch: Batch) -> Tensor:
        return propagate_up(layers[:number], self.model_inputs(batch).flatten(1))

    def model_inputs(self, batch: Batch) -> Tensor:
        """Return pixels from 0 (black) to 1 (white)."""
        return self.pixel_range.to_unit(batch["inputs"])

    def _evaluate_layer(self, number: int, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        mean, layers = Mean(), rbm_layers(model)
        for batch in batches:
            inputs = self._layer_inputs(layers, number, batch)
            mean.add(len(inputs), reconstruction=rbm.reconstruction_error(layers[number], inputs).mean())
        return Evaluation({f"reconstruction_layer{number + 1}": mean.read()["reconstruction"]})

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the persistent chains of each layer."""
        return {"chains": [chains.visible for chains in self.chains]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the persistent chains; `state` is ignored if `begin` has not created chains."""
        for chains, visible in zip(self.chains, state["chains"], strict=False):
            chains.visible = visible

    # --- samples ----------------------------------------------------------------------------------------------------

    def show(self, model: nn.Module, evaluation: Evaluation) -> list[Media]:
        """Return the media of `Classification`, filters of the first layer, and samples."""
        return [*super().show(model, evaluation), *self._show_layers(model, evaluation)]

    def _show_layers(self, model: rbm.RBM, evaluation: Evaluation) -> list[Media]:
        filters = grids.filters(rbm_layers(model)[0].up.weight.unflatten(1, self.shape))
        return [Media("filters", filters), Media("samples", self.frame(model))]

    def frame(self, model: rbm.RBM) -> Tensor:
        """Return samples after 100 Gibbs steps from fixed noise in the top layer."""
        return grids.images(self._sample(model, NUM_SAMPLES, FRAME_STEPS, Generator().manual_seed(0)))

    def generate(self, model: rbm.RBM, request: GenerateRequest) -> Tensor:
        """Return images after 1,000 Gibbs steps in the top layer, or reconstructions of the given images.

        Samples are better before fine-tuning, which optimizes only the classifier.
        """
        check_request(request)
        if request.given is None:
            return self._sample(model, request.count, GENERATE_STEPS, request.noise)
        layers = rbm_layers(model)
        top = propagate_up(layers, self.pixel_range.to_unit(request.given.to(request.device)).flatten(1))
        return propagate_down(layers, top).unflatten(1, self.shape)

    def _sample(self, model: rbm.RBM, count: int, steps: int, noise: Generator) -> Tensor:
        """Return images (count, C, H, W) from Gibbs steps in the top layer.

        Source: Hinton, Osindero and Teh 2006, section 3.
        """
        layers = rbm_layers(model)
        return propagate_down(layers, rbm.sample_from_noise(layers[-1], count, steps, noise)).unflatten(1, self.shape)


def rbm_layers(model: nn.Module) -> list[rbm.RBM]:
    """Return the layers of a network, lowest first, each with modules ``up`` and ``down``.

    Raises:
        ConfigError: The model has no such layers.
    """
    layers = list(getattr(model, "layers", []))
    if not layers or not all(hasattr(layer, "up") and hasattr(layer, "down") for layer in layers):
        expected = "a model whose layers have modules up and down, such as dbn, for task=layerwise"
        raise ConfigError(format_error("model", expected, type(model).__name__))
    return layers


def propagate_up(layers: list[rbm.RBM], visible: Tensor) -> Tensor:
    """Return the probabilities of the hidden units of the last layer; without layers, return ``visible``."""
    for layer in layers:
        visible = layer.up(visible).float().sigmoid()
    return visible


def propagate_down(layers: list[rbm.RBM], hidden: Tensor) -> Tensor:
    """Return the probabilities of the visible units of the first layer."""
    for layer in reversed(layers):
        hidden = layer.down(hidden).float().sigmoid()
    return hidden
