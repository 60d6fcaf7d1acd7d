"""Subclasses of dltrain's tasks and data that wait at events chosen by a test.

A test selects them on the command line (``task._target_=gated.Classification allow_targets=[gated]``). The environment
variable GATE names a folder; without it, the classes never wait. If the folder has a file ``train-7``, the process
waits at its seventh training batch: it renames the file to ``train-7.reached`` and continues when the test removes it.
Other files are ``evaluate-2`` (the second evaluated batch), ``show-1`` (the first images), ``load-1`` (loading the
data), ``save-1`` (the first checkpoint) and ``stages-2`` (building the loop, after the dry run). A file ``delay``
contains the seconds to wait at every event of these kinds. A file ``seen``, if it exists, collects the hashes of the
examples of all training batches.
"""

import functools
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from dltrain.data.spec import Splits
from dltrain.datasets import text
from dltrain.plots import grids
from dltrain.tasks import (
    adversarial,
    classification,
    ctc,
    detection,
    forecasting,
    language_modeling,
    layerwise,
    polyphony,
    reconstruction,
    segmentation,
    translation,
    variational,
)
from dltrain.tasks.autoencoder_base import CollectedExamples
from dltrain.tasks.base import Batch, Evaluation, Loss, Media, Stage


class Gate:
    """Gate that makes its process wait at each event that has a file in the folder."""

    def __init__(self) -> None:
        self.folder = Path(os.environ["GATE"]) if "GATE" in os.environ else None
        delay = self.folder / "delay" if self.folder else None
        self.delay = float(delay.read_text()) if delay and delay.exists() else 0.0
        self.counts = {kind: itertools.count(1) for kind in ("load", "stages", "train", "evaluate", "show", "save")}

    def wait_if_closed(self, kind: str) -> None:
        """Count one event of a kind, and wait if the test has closed the gate for it."""
        number = next(self.counts[kind])
        if self.folder is None:
            return
        time.sleep(self.delay)
        closed = self.folder / f"{kind}-{number}"
        if closed.exists():
            reached = closed.rename(closed.with_name(f"{closed.name}.reached"))
            while reached.exists():
                time.sleep(0.002)

    def note(self, inputs: torch.Tensor) -> None:
        """Append the hash of each example to ``seen``, if that file exists."""
        if self.folder is not None and (self.folder / "seen").exists():
            with open(self.folder / "seen", "a") as seen:
                seen.writelines(f"{hashlib.sha256(row.numpy().tobytes()).hexdigest()}\n" for row in inputs)


class Gated:
    """Mixin that calls the gate for batches, images and saves after the dry run, and whenever stages are built."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate = Gate()
        self.in_loop = False

    def loss(self, model: torch.nn.Module, batch: Batch, progress: float) -> Loss:
        if self.in_loop and torch.is_grad_enabled():
            self.gate.wait_if_closed("train")
            self.gate.note(batch["inputs"])
        return super().loss(model, batch, progress)  # type: ignore[misc]

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> Evaluation:
        in_dry_run = isinstance(batches, list)
        self.in_loop = True  # the dry run ends with an evaluation
        return super().evaluate(model, batches if in_dry_run else self.gated(batches))  # type: ignore[misc]

    def gated(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.gate.wait_if_closed("evaluate")
            yield batch

    def show(self, model: torch.nn.Module, evaluation: Evaluation) -> list[Media]:
        self.gate.wait_if_closed("show")
        return super().show(model, evaluation)  # type: ignore[misc]

    def stages(self, model: torch.nn.Module) -> list[Stage]:
        self.gate.wait_if_closed("stages")
        return super().stages(model)  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        if self.in_loop:
            self.gate.wait_if_closed("save")
        return super().state_dict()  # type: ignore[misc]


class Classification(Gated, classification.Classification):
    """Classification whose ``film.gif`` shows the first filters; its confusion matrix has no text, to save time."""

    def show(self, model: torch.nn.Module, evaluation: Evaluation) -> list[Media]:
        self.gate.wait_if_closed("show")
        counts = evaluation.extra["confusion"]
        return [Media("confusion", grids.images(counts[None, None] / counts.max()))]

    def frame(self, model: torch.nn.Module) -> torch.Tensor | None:
        return grids.first_filters(model)


class Forecasting(Gated, forecasting.Forecasting):
    """Forecasting with images of forecasts without axes, which are drawn faster."""

    def show(self, model: torch.nn.Module, evaluation: Evaluation) -> list[Media]:
        self.gate.wait_if_closed("show")
        return [Media("forecasts", grids.images(self.output.point(evaluation.extra["first"][1])[:4, None].sigmoid()))]


class CodesWithoutAxes:
    """Mixin for autoencoder tasks that draws codes as gray values instead of a scatter plot, which is faster."""

    def _plot_codes(self, collected: CollectedExamples) -> torch.Tensor:
        return grids.images(collected.codes[:16, None, None].sigmoid())


class LanguageModeling(Gated, language_modeling.LanguageModeling):
    pass


class Adversarial(Gated, adversarial.Adversarial):
    """Adversarial training that calls the gate once per batch, in the critic's turn."""


class Variational(CodesWithoutAxes, Gated, variational.Variational):
    pass


class Segmentation(Gated, segmentation.Segmentation):
    pass


class Translation(Gated, translation.Translation):
    pass


class Polyphony(Gated, polyphony.Polyphony):
    pass


class Ctc(Gated, ctc.Ctc):
    pass


class Detection(Gated, detection.Detection):
    pass


class Reconstruction(CodesWithoutAxes, Gated, reconstruction.Reconstruction):
    pass


class Layerwise(Gated, layerwise.Layerwise):
    """Layer-wise pretraining that calls the gate for the batches of every stage."""

    def stages(self, model: torch.nn.Module) -> list[Stage]:
        """Return stages whose losses call the gate. The first call, by the dry run, returns them without the gate."""
        stages = super().stages(model)
        for turn in [turn for stage in stages for turn in stage.turns if self.in_loop]:
            turn.loss = functools.partial(self.gated_loss, turn.loss)
        self.in_loop = True
        return stages

    def gated_loss(self, find: Callable[[Batch, float], Loss], batch: Batch, progress: float) -> Loss:
        self.gate.wait_if_closed("train")
        self.gate.note(batch["inputs"])
        return find(batch, progress)

    def loss(self, model: torch.nn.Module, batch: Batch, progress: float) -> Loss:
        return layerwise.Layerwise.loss(self, model, batch, progress)


class Text(text.Text):
    """Text data that wait when they are loaded."""

    def load(self) -> Splits:
        Gate().wait_if_closed("load")
        return super().load()
