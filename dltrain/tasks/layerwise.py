"""Greedy layer-wise pretraining without answers, then a classifier: the way to deep networks of 2006."""

import functools
import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.metrics.running import Mean
from dltrain.plots import grids
from dltrain.tasks import rbm
from dltrain.tasks.base import Batch, Evaluation, GenerateRequest, Goal, Line, Loss, Media, Stage, Turn
from dltrain.tasks.classification import Classification
from dltrain.tasks.contrastive_divergence import DREAM, GLANCE, SHOWN, refuse_unknown
from dltrain.tasks.pixel_range import PixelRange


class Layerwise(Classification):
    """Each layer learns to model the layer below, the lowest the pixels; then all of them learn to tell classes apart.

    Stage ``layer1`` trains the lowest layer on all training examples, and so on upwards; no other layer changes in it,
    and its metric is ``reconstruction_layer1``, the cross-entropy between the units that the layer reads and what it
    makes of them on the way up and down, in nats per example. Stage ``fine_tuning`` trains the way up and the output
    layer by cross-entropy, on the examples whose class is known.

    Args:
        classes: Number of classes.
        shape: Of one example.
        low: What a model reads for black, one number per channel; a layer reads numbers from 0 (black) to 1 (white).
        high: What it reads for white, likewise.
        class_names: One name per class; numbers if not given.
        label_smoothing: Share of each target that is spread evenly over all classes, in fine-tuning.
        method: ``contrastive_divergence``: a layer is a restricted Boltzmann machine; ``denoising``: an autoencoder
            with tied weights, which fills in what is missing.
        cd_steps: Gibbs steps of the chains per step of training.
        persistent: Chains go on from step to step instead of beginning at the data.
        noise: Share of the units that ``denoising`` sets to 0.
        pretrain_epochs: Of each layer; 0 leaves pretraining out.
        pretrain_lr: Learning rate of each layer's stage; None for the optimizer's own.

    Source: Hinton, Osindero and Teh 2006, "A fast learning algorithm for deep belief nets"; Bengio, Lamblin, Popovici
    and Larochelle 2007, "Greedy layer-wise training of deep networks"; Vincent et al. 2010, "Stacked denoising
    autoencoders".

    Differs: layers read the probabilities of the units below, not states drawn from them.
    """

    def __init__(
        self,
        classes: int,
        shape: list[int],
        low: list[float],
        high: list[float],
        class_names: list[str] | None = None,
        label_smoothing: float = 0.0,
        method: Literal["contrastive_divergence", "denoising"] = "contrastive_divergence",
        cd_steps: int = 1,
        persistent: bool = False,
        noise: float = 0.25,
        pretrain_epochs: int = 10,
        pretrain_lr: float | None = None,
    ) -> None:
        super().__init__(classes, class_names, label_smoothing)
        self.shape, self.pixel_range = tuple(shape), PixelRange(low, high)
        self.method, self.noise = method, noise
        self.cd_steps, self.persistent = cd_steps, persistent
        self.pretrain_epochs, self.pretrain_lr = pretrain_epochs, pretrain_lr
        self.chains: list[rbm.Chains] = []

    def facts(self) -> dict[str, Any]:
        """Units that the lowest layer reads, one per pixel; no outputs, which a model without layers would ask for."""
        return {"lowest": math.prod(self.shape), "outputs": None, "each_step": False, "causal": False}

    # --- stages -----------------------------------------------------------------------------------------------------

    def stages(self, model: rbm.Machine) -> list[Stage]:
        """One for each layer, from below, and then one for the answer.

        Raises:
            ConfigError: For a model that has no such layers.
        """
        layers = layers_of(model)
        self.chains = [rbm.Chains(self.cd_steps, self.persistent) for _ in layers]
        upward = [p for layer in layers for p in layer.up.parameters()] + list(model.head.parameters())
        answer = Turn("train", upward, lambda batch, progress: self.loss(model, batch, progress))
        pretraining = [self._pretraining(layers, number) for number in range(len(layers))]
        return [*(pretraining if self.pretrain_epochs else []), Stage("fine_tuning", [answer])]

    def _pretraining(self, layers: list[rbm.Machine], number: int) -> Stage:
        """The stage of one layer."""
        name = f"layer{number + 1}"
        learn = self._diverge if self.method == "contrastive_divergence" else self._denoise
        owned, loss = list(layers[number].parameters()), functools.partial(learn, layers, number)
        turn = Turn(name, owned, loss, lr=self.pretrain_lr)
        goal = Goal(f"reconstruction_{name}", "min", functools.partial(self._reconstruct, number), self._show_layers)
        return Stage(name, [turn], self.pretrain_epochs, "unlabelled", goal)

    def _diverge(self, layers: list[rbm.Machine], number: int, batch: Batch, progress: float) -> Loss:
        """Contrastive divergence of one layer."""
        loss = self.chains[number].loss(layers[number], self._below(layers, number, batch))
        return loss._replace(parts={f"free_energy_layer{number + 1}": loss.parts["free_energy"]})

    def _denoise(self, layers: list[rbm.Machine], number: int, batch: Batch, progress: float) -> Loss:
        """Cross-entropy between the units below and what is made of those that are left of them.

        Source: Vincent et al. 2010, section 3.3; masking noise, section 3.4.
        """
        whole = self._below(layers, number, batch)
        left = whole * (torch.rand_like(whole) >= self.noise)
        return Loss(rbm.reconstruction(layers[number], whole, left).mean(), len(whole))

    @torch.no_grad()
    def _below(self, layers: list[rbm.Machine], number: int, batch: Batch) -> Tensor:
        """What a layer reads: probabilities of the units below it, which have learned and learn no more."""
        return upwards(layers[:number], self._unit(batch)["inputs"].flatten(1))

    def _reconstruct(self, number: int, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """How well a layer brings back the layer below."""
        mean, layers = Mean(), layers_of(model)
        for batch in batches:
            below = self._below(layers, number, batch)
            mean.add(len(below), reconstruction=rbm.reconstruction(layers[number], below).mean())
        return Evaluation({f"reconstruction_layer{number + 1}": mean.read()["reconstruction"]})

    # --- the answer -------------------------------------------------------------------------------------------------

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        """Mean cross-entropy over the examples."""
        return super().loss(model, self._unit(batch), progress)

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Evaluation:
        """As any classifier's."""
        return super().evaluate(model, map(self._unit, batches))

    def predict(self, model: nn.Module, batch: Batch) -> list[Line]:
        """As any classifier's."""
        return super().predict(model, self._unit(batch))

    def _unit(self, batch: Batch) -> Batch:
        return {**batch, "inputs": self.pixel_range.to_unit(batch["inputs"])}

    # --- what it makes up -------------------------------------------------------------------------------------------

    def show(self, model: rbm.Machine, evaluation: Evaluation) -> list[Media]:
        """What a classifier shows, and the layers."""
        return [*super().show(model, evaluation), *self._show_layers(model, evaluation)]

    def _show_layers(self, model: rbm.Machine, evaluation: Evaluation) -> list[Media]:
        """The lowest weights as filters, and what chains in the topmost layer have come to."""
        filters = grids.filters(layers_of(model)[0].up.weight.unflatten(1, self.shape))
        return [Media("filters", filters), Media("samples", self.frame(model))]

    def frame(self, model: rbm.Machine) -> Tensor:
        """What the network makes of chains in its topmost layer that always begin at the same noise."""
        return grids.images(self._dream(model, SHOWN, GLANCE, Generator().manual_seed(0)))

    def generate(self, model: rbm.Machine, request: GenerateRequest) -> Tensor:
        """Pictures: 1,000 Gibbs steps in the topmost layer, and from there down; of given ones, up and down again.

        Fine-tuning changes the weights that they come from, so that they are worse than before it.

        Raises:
            ConfigError: For a class, which is not asked of a layer, or a way from one example to another.
        """
        refuse_unknown(request)
        if request.given is None:
            return self._dream(model, request.count, DREAM, request.noise)
        layers = layers_of(model)
        top = upwards(layers, self.pixel_range.to_unit(request.given.to(request.device)).flatten(1))
        return downwards(layers, top).unflatten(1, self.shape)

    def _dream(self, model: rbm.Machine, count: int, steps: int, noise: Generator) -> Tensor:
        """Source: Hinton, Osindero and Teh 2006, section 3."""
        layers = layers_of(model)
        return downwards(layers, rbm.dream(layers[-1], count, steps, noise)).unflatten(1, self.shape)

    def state_dict(self) -> dict[str, Any]:
        """Where the persistent chains of each layer are."""
        return {"chains": [chains.visible for chains in self.chains]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let them go on from there; a model that is only asked, and not trained, has none."""
        for chains, visible in zip(self.chains, state["chains"], strict=False):
            chains.visible = visible


def layers_of(model: nn.Module) -> list[rbm.Machine]:
    """The layers of a network, the lowest first, each with a way ``up`` and a way ``down``.

    Raises:
        ConfigError: Naming the class of a model without them.
    """
    layers = list(getattr(model, "layers", []))
    if not layers or not all(hasattr(layer, "up") and hasattr(layer, "down") for layer in layers):
        expected = "one of layers that lead up and down, such as dbn, for task=layerwise"
        raise ConfigError(format_error("model", expected, type(model).__name__))
    return layers


def upwards(layers: list[rbm.Machine], visible: Tensor) -> Tensor:
    """Probabilities of the units above all of these layers."""
    for layer in layers:
        visible = layer.up(visible).float().sigmoid()
    return visible


def downwards(layers: list[rbm.Machine], hidden: Tensor) -> Tensor:
    """Probabilities of the units below all of these layers."""
    for layer in reversed(layers):
        hidden = layer.down(hidden).float().sigmoid()
    return hidden
