"""Helpers for tests of predictions: build the trained model of a run, and compute the outputs to compare with."""

import csv
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from in_process import Result

from dltrain.data.loader import Batches
from dltrain.runs import assemble, dry_run
from dltrain.storage.checkpoints import Checkpoints

SHORT = ["trainer.epochs=null", "trainer.max_steps=2", "trainer.log_media=false", "device=cpu"]
TEXT = ["model=gpt", "model.hidden_size=16", "model.num_heads=2", "model.num_layers=1"]

SmallData = Callable[[str], list[str]]
Train = Callable[..., Path]
Predict = Callable[..., Result]


class Known(NamedTuple):
    """The components of a run with its best weights, and the batches of its test split."""

    components: assemble.Components
    batches: Batches


def rebuilt(folder: Path, *overrides: str, weights: str = "model") -> Known:
    """Build the components of a run and load its best checkpoint; `weights` selects ``model`` or ``average``."""
    from dltrain.config.revise import revise_job
    from dltrain.runs import job as stored

    components = assemble.build_components(revise_job(stored.load_job(folder), list(overrides))[0])
    state = Checkpoints(folder).load("best.pt")
    components.model.load_state_dict(state["model"] if weights == "model" else state[weights]["model"])
    components.model.eval()
    return Known(components, dry_run.build_batches(components, components.data.load())["test"])


def outputs_of(known: Known) -> torch.Tensor:
    """Return the outputs of the model for all test examples."""
    with torch.inference_mode():
        return torch.cat([known.components.model(batch["inputs"]) for batch in known.batches])


def both_formats(predict: Predict, *words: object) -> Iterator[tuple[dict, dict]]:
    """Yield each prediction as read from JSON and as read from CSV."""
    rows = csv.DictReader(io.StringIO(predict(*words, "--format", "csv").out))
    yield from itertools.zip_longest(predict(*words).lines, rows)
