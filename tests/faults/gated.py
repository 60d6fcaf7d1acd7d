"""Tasks and data that wait at a moment a test has chosen; what they compute is dltrain's own.

A test names them on the command line (``task._target_=gated.Classification allow_targets=[gated]``). The environment
variable GATE names a folder; without one they never wait. A file ``train-7`` there makes the seventh loss of a process
wait (``evaluate-2`` the second batch evaluated, ``show-1`` the first pictures, ``load-1`` the data, ``save-1`` the
first checkpoint, ``stages-2`` the loop that is being made, after the rehearsal): it becomes
``train-7.reached``, and all goes on when the test has removed that. A file ``delay`` holds the seconds that every one
of them takes longer; a file ``seen`` gathers the fingerprint of every example trained on.
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
    forecasting,
    language_modeling,
    layerwise,
    reconstruction,
    variational,
)
from dltrain.tasks.base import Batch, Evaluation, Loss, Media, Stage


class Gate:
    """Waits where the folder says."""

    def __init__(self) -> None:
        self.folder = Path(os.environ["GATE"]) if "GATE" in os.environ else None
        delay = self.folder / "delay" if self.folder else None
        self.delay = float(delay.read_text()) if delay and delay.exists() else 0.0
        self.counts = {kind: itertools.count(1) for kind in ("load", "stages", "train", "evaluate", "show", "save")}

    def pass_by(self, kind: str) -> None:
        """Count one batch, and wait if a test wants to have it here."""
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
        """Write down which examples were trained on, if a test wants to know."""
        if self.folder is not None and (self.folder / "seen").exists():
            with open(self.folder / "seen", "a") as seen:
                seen.writelines(f"{hashlib.sha256(row.numpy().tobytes()).hexdigest()}\n" for row in inputs)


class Gated:
    """Passes the gate with every batch of a task, except in the dry run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate = Gate()
        self.rehearsed = False

    def loss(self, model: torch.nn.Module, batch: Batch, progress: float) -> Loss:
        if self.rehearsed and torch.is_grad_enabled():
            self.gate.pass_by("train")
            self.gate.note(batch["inputs"])
        self.rehearsed = True
        return super().loss(model, batch, progress)  # type: ignore[misc]

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> Evaluation:
        rehearsed = isinstance(batches, list)
        return super().evaluate(model, batches if rehearsed else self.watched(batches))  # type: ignore[misc]

    def watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.gate.pass_by("evaluate")
            yield batch

    def show(self, model: torch.nn.Module, evaluation: Evaluation) -> list[Media]:
        self.gate.pass_by("show")
        return super().show(model, evaluation)  # type: ignore[misc]

    def stages(self, model: torch.nn.Module) -> list[Stage]:
        self.gate.pass_by("stages")
        return super().stages(model)  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        if self.rehearsed:
            self.gate.pass_by("save")
        return super().state_dict()  # type: ignore[misc]


class Classification(Gated, classification.Classification):
    """Classification with a film of the first filters."""

    def frame(self, model: torch.nn.Module) -> torch.Tensor | None:
        return grids.first_filters(model)


class Forecasting(Gated, forecasting.Forecasting):
    pass


class LanguageModeling(Gated, language_modeling.LanguageModeling):
    pass


class Adversarial(Gated, adversarial.Adversarial):
    """Passes by with the critic's turn, of which every step has one."""


class Variational(Gated, variational.Variational):
    pass


class Reconstruction(Gated, reconstruction.Reconstruction):
    pass


class Layerwise(Gated, layerwise.Layerwise):
    """Passes by with the batches of every stage."""

    def stages(self, model: torch.nn.Module) -> list[Stage]:
        """A rehearsal asks for them first, then the loop."""
        stages = super().stages(model)
        for turn in [turn for stage in stages for turn in stage.turns if self.rehearsed]:
            turn.loss = functools.partial(self.passing, turn.loss)
        self.rehearsed = True
        return stages

    def passing(self, find: Callable[[Batch, float], Loss], batch: Batch, progress: float) -> Loss:
        self.gate.pass_by("train")
        self.gate.note(batch["inputs"])
        return find(batch, progress)

    def loss(self, model: torch.nn.Module, batch: Batch, progress: float) -> Loss:
        return layerwise.Layerwise.loss(self, model, batch, progress)


class Text(text.Text):
    """Data that take their time."""

    def load(self) -> Splits:
        Gate().pass_by("load")
        return super().load()
