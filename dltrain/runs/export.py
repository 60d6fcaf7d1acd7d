"""Encode generated examples as a grid of images, a scatter plot, an animation, or numbers."""

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dltrain.data.spec import Spec
from dltrain.errors import ConfigError, format_error
from dltrain.loggers import film
from dltrain.plots import charts, grids

COLUMNS = 8  # columns of a grid; a grid of at least 162 new samples has more
GIF_SIDE = 224  # approximate side to which images of a GIF are enlarged, in pixels
FRAME_MS, LAST_FRAME_MS = 120, 1000  # duration of a frame, and of the last frame


class Generated(NamedTuple):
    """Generated examples."""

    examples: Tensor
    given: Tensor | None = None  # the original of each example, if the examples are reconstructions
    interpolated: bool = False  # whether the examples are interpolations, in rows of eight


Encode = Callable[[Generated], bytes]


def encoders(spec: Spec) -> dict[str, Encode]:
    """Return the file formats for examples of these data: file extension -> encoder."""
    shape = spec.shape or ()
    if len(shape) == 3 and spec.low is not None:
        return {".png": _grid, ".gif": _gif, ".npy": _npy}
    if shape == (2,):
        return {".png": _scatter, ".csv": _csv, ".npy": _npy}
    return {".csv": _csv, ".npy": _npy} if len(shape) == 1 else {".npy": _npy}


def encoder(path: Path, spec: Spec) -> Encode:
    """Return the encoder for the extension of the file `path`."""
    fitting = encoders(spec)
    if path.suffix.lower() not in fitting:
        shape = "x".join(map(str, spec.shape or ()))
        expected = f"a file ending in {' or '.join(fitting)} for examples of shape {shape}"
        raise ConfigError(format_error("--out", expected, path))
    return fitting[path.suffix.lower()]


def _grid(generated: Generated) -> bytes:
    """Return a grid of images as PNG; reconstructions are below their originals."""
    count = len(generated.examples)
    if generated.given is None:
        columns = COLUMNS if generated.interpolated else max(COLUMNS, math.isqrt(count // 2))
        return film.encode_png(grids.images(generated.examples, columns))
    columns = min(COLUMNS, count)
    rows = zip(generated.given.split(columns), generated.examples.split(columns), strict=True)
    white = generated.examples.new_ones(-count % columns, *generated.examples.shape[1:])  # fills the last rows
    wide = [picture for pair in rows for row in pair for picture in (row, white[: columns - len(row)])]
    return film.encode_png(grids.images(torch.cat(wide), columns))


def _gif(generated: Generated) -> bytes:
    """Return an animation of one image per frame; reconstructions are next to their originals."""
    originals, examples = generated.given, generated.examples
    each = examples[:, None] if originals is None else torch.stack([originals, examples], 1)
    frames = [film.to_pil(grids.images(pictures, tile=GIF_SIDE)) for pictures in each]
    return film.encode_gif(frames, FRAME_MS, LAST_FRAME_MS)


def _scatter(generated: Generated) -> bytes:
    title = f"{len(generated.examples):,} points"
    if generated.given is None:
        return film.encode_png(charts.scatter(generated.examples, None, (), title))
    kinds = torch.arange(2).repeat_interleave(len(generated.examples))
    points = torch.cat([generated.given, generated.examples])
    return film.encode_png(charts.scatter(points, kinds, ("given", "reconstructed"), title))


def _npy(generated: Generated) -> bytes:
    file = io.BytesIO()
    np.save(file, generated.examples.numpy(), allow_pickle=False)
    return file.getvalue()


def _csv(generated: Generated) -> bytes:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(f"x{column}" for column in range(1, generated.examples.shape[1] + 1))
    writer.writerows([f"{value:.9g}" for value in row] for row in generated.examples.tolist())
    return lines.getvalue().encode()
