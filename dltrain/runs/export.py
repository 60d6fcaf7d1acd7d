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

COLUMNS = 8  # columns of a grid; more if the grid would be more than twice as high as wide
GIF_SIDE = 224  # approximate side to which images of a GIF are enlarged, in pixels
FRAME_MS, LAST_FRAME_MS = 120, 1000  # duration of each frame, and of the last one


class Generated(NamedTuple):
    """Generated examples, and the originals if the examples are reconstructions."""

    examples: Tensor
    given: Tensor | None = None  # the original of each example, if the examples are reconstructions
    interpolated: bool = False  # whether the examples are interpolations, in rows of eight


Encode = Callable[[Generated], bytes]


def encoders(spec: Spec) -> dict[str, Encode]:
    """Return the file formats for examples of this data: file extension -> encoder."""
    shape = spec.shape or ()
    if len(shape) == 3 and spec.low is not None:
        return {".png": _grid, ".gif": _gif, ".npy": _npy}
    if shape == (2,):
        return {".png": _scatter, ".csv": _csv, ".npy": _npy}
    return {".csv": _csv, ".npy": _npy} if len(shape) == 1 else {".npy": _npy}


def encode(made: Generated, path: Path, spec: Spec) -> bytes:
    """Return the content of the file `path`, in the format of its extension."""
    fitting = encoders(spec)
    if path.suffix.lower() not in fitting:
        shape = "x".join(map(str, spec.shape or ()))
        expected = f"a file ending in {' or '.join(fitting)} for examples of {shape}"
        raise ConfigError(format_error("--out", expected, path))
    return fitting[path.suffix.lower()](made)


def _grid(made: Generated) -> bytes:
    """Return a grid of images as PNG; reconstructions are below their originals."""
    count = len(made.examples)
    if made.given is None:
        columns = COLUMNS if made.interpolated else max(COLUMNS, math.isqrt(count // 2))
        return film.encode_png(grids.images(made.examples, columns))
    columns = min(COLUMNS, count)
    rows = zip(made.given.split(columns), made.examples.split(columns), strict=True)
    white = made.examples.new_ones(-count % columns, *made.examples.shape[1:])  # fills the last rows
    wide = [picture for pair in rows for row in pair for picture in (row, white[: columns - len(row)])]
    return film.encode_png(grids.images(torch.cat(wide), columns))


def _gif(made: Generated) -> bytes:
    """Return an animation of one image per frame; reconstructions are next to their originals."""
    each = made.examples[:, None] if made.given is None else torch.stack([made.given, made.examples], 1)
    frames = [film.to_pil(grids.images(pictures, tile=GIF_SIDE)) for pictures in each]
    return film.encode_gif(frames, FRAME_MS, LAST_FRAME_MS)


def _scatter(made: Generated) -> bytes:
    title = f"{len(made.examples):,} points"
    if made.given is None:
        return film.encode_png(charts.scatter(made.examples, None, (), title))
    kinds = torch.arange(2).repeat_interleave(len(made.examples))
    points = torch.cat([made.given, made.examples])
    return film.encode_png(charts.scatter(points, kinds, ("given", "reconstructed"), title))


def _npy(made: Generated) -> bytes:
    file = io.BytesIO()
    np.save(file, made.examples.numpy(), allow_pickle=False)
    return file.getvalue()


def _csv(made: Generated) -> bytes:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(f"x{column}" for column in range(1, made.examples.shape[1] + 1))
    writer.writerows([f"{value:.9g}" for value in row] for row in made.examples.tolist())
    return lines.getvalue().encode()
