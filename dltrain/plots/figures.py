"""Matplotlib figures as tensors, without pyplot. Matplotlib is imported when the first figure is drawn."""

import functools
import logging
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")

INK, GRAY, FAINT = "#202124", "#969ba0", "#e2e5e9"
WIDTH, DPI = 2.7, 200  # inches, dots per inch: TensorBoard's cards are 270 pixels wide, 540 on high-density screens
STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.formatter.limits": (-3, 5),
    "axes.titlelocation": "left",
    "axes.titlepad": 3,
    "axes.labelpad": 2,
    "axes.linewidth": 0.8,
    "axes.edgecolor": GRAY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $x^2$
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 0.9,
    "legend.borderpad": 0,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}
STYLE |= {f"{axis}tick.{key}": value for axis in "xy" for key, value in [("major.width", 0.8), ("major.size", 2.5)]}
STYLE |= {f"{axis}tick.{key}": value for axis in "xy" for key, value in [("color", GRAY), ("labelcolor", INK)]}


def as_image(height: float) -> Callable[[Callable[Concatenate["Figure", P], None]], Callable[P, Tensor]]:
    """Decorate a drawing function to return its figure as an image, uint8 (3, H, W); `height` is in inches."""

    def decorate(draw: Callable[Concatenate["Figure", P], None]) -> Callable[P, Tensor]:
        @functools.wraps(draw)
        def render(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            logging.getLogger("matplotlib").setLevel(logging.ERROR)  # without a home folder, it warns about its cache
            with warnings.catch_warnings(action="ignore"):  # for example about missing glyphs
                from matplotlib import style
                from matplotlib.backends.backend_agg import FigureCanvasAgg
                from matplotlib.figure import Figure

                with style.context(["default", STYLE]):  # not the user's matplotlibrc
                    figure = Figure((WIDTH, height), DPI, layout="constrained")
                    canvas = FigureCanvasAgg(figure)
                    draw(figure, *args, **kwargs)
                    canvas.draw()
                    pixels = np.array(canvas.buffer_rgba())[..., :3]
            return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

        return render

    return decorate


def truncate(text: str, length: int) -> str:
    """Return text as one line of at most `length` printable characters."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
