"""A user's own arrays in one .npz file."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from dltrain.data.arguments import at_least, file, fraction
from dltrain.data.batches import Batch
from dltrain.data.pictures import Look, Rows, picked, picture_facts
from dltrain.data.spec import Source, Spec, Splits
from dltrain.data.splitting import hold_out
from dltrain.data.table import Ready
from dltrain.errors import ConfigError, problem

NAMES = ("x_train", "y_train", "x_test", "y_test")
MOST_CHANNELS = 4

Shape = tuple[int, ...]


class Npz:
    """Arrays ``x_train, y_train, x_test, y_test`` whose first axis counts the examples.

    What x is follows from its shape and type: bytes (N, H, W), (N, H, W, C) or (N, C, H, W) are pictures, floats with
    four axes are pictures from 0 to 1, floats (N, T, F) are sequences of T steps and (N, D) are plain vectors. Where
    both ends of a picture could be its channels, the last axis is. What y is follows from its type: whole numbers from
    0 on are classes, floats (N,) or (N, K) are numbers to predict.

    Args:
        path: The .npz file.
        validation: Fraction of the training arrays that is held out; 0 trains on all of them.
        mean: Of pictures only: taken from the pixels, on the scale from 0 to 1; a number, or one per channel.
        std: Of pictures only: what the pixels are divided by after that.
        augment: Of pictures only: any of ``flip`` and ``crop``.
        batch_size: Examples per step.
        workers: Not needed here: all arrays stay in memory.
    """

    def __init__(
        self,
        path: str,
        validation: float = 0.1,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        augment: list[str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
    ) -> None:
        self.path = file(path, "an existing .npz file")
        self.validation = fraction("data.validation", validation)
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        headers = _headers(self.path)
        self.floats = headers["x_train"][1].kind == "f"
        self.spec = self._facts({name: shape for name, (shape, _) in headers.items()})
        self.look = Look(self.spec.channels, mean, std, augment or [], 1.0 if self.floats else 255.0) if (
            self.spec.channels
        ) else None

    def load(self) -> Splits:
        """Read all arrays."""
        with np.load(self.path, allow_pickle=False) as arrays:
            rest, test = (self._rows(arrays[f"x_{part}"], arrays[f"y_{part}"], part) for part in ("train", "test"))
        train, val = hold_out(len(rest["labels"]), self.validation)
        if self.look is not None:
            return self.look.splits(picked(rest, train), picked(rest, val), test)
        ready = [Source({"inputs": part["pixels"], "targets": part["labels"]}, Ready()) for part in (
            picked(rest, train), picked(rest, val), test
        )]
        return Splits(ready[0], ready[1] if len(val) else None, ready[2])

    def _facts(self, shapes: Mapping[str, Shape]) -> Spec:
        """Facts of x and of y; only the labels are read, as the number of classes is in no header."""
        ...
