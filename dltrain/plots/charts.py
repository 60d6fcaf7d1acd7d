"""Charts of how well a model works, legible 270 pixels wide; each is a uint8 tensor of 3 x height x width."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dltrain.plots.figures import FAINT, GREY, INK, as_image, truncate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Source: Okabe, Ito 2008, "Color Universal Design", without their yellow, which is faint on white; then two of
# Tol 2021, "Colour schemes", muted.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK, "#882255", "#999933", GREY)
PANELS = 3  # forecasts in one picture
COLUMNS = 3  # captioned images in one row
BINS = 40
MANY = 2500  # points; more are drawn smaller


@as_image(height=2.7)
def confusion(figure: "Figure", counts: Tensor, names: Sequence[str]) -> None:
    """Draw a confusion matrix: shade is the share of the row; counts are written where they fit.

    Args:
        counts: Examples of each true class (row) that were predicted as each class (column), (classes, classes).
    """
    counts = counts.detach().cpu().double()
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    rate = 100 * float(counts.trace() / counts.sum().clamp(min=1))
    axes = figure.subplots()
    axes.set_title(f"accuracy {rate:.1f} % of {int(counts.sum()):,}")
    # The root keeps a few mistakes visible next to many hits.
    axes.imshow(shares.sqrt().numpy(), "Blues", vmin=0, vmax=1)
    cell = 120 / len(counts)  # points, about
    for row, column in counts.nonzero().tolist() if cell > 4 else ():
        text = f"{int(counts[row, column])}"
        size = min(7, cell, 1.5 * cell / len(text))
        colour = "white" if shares[row, column] > 0.35 else INK
        if size > 4:
            axes.text(column, row, text, fontsize=size, color=colour, ha="center", va="center_baseline")
    ticks = range(0, len(counts), math.ceil(len(counts) / 20))
    labels = [truncate(names[tick], 10) for tick in ticks]
    level = len(ticks) * (1 + max(map(len, labels))) <= 36
    axes.set_xticks(ticks, labels, rotation=0 if level else 90)
    axes.set_yticks(ticks, labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")


@as_image(height=3.2)
def captioned(figure: "Figure", pictures: Tensor, captions: Sequence[str]) -> None:
    """Draw images in rows of three, each above its caption.

    Args:
        pictures: (N, channels, height, width), in color if there are 3 channels, otherwise as their mean; uint8, or
            floats, each image from its own minimum to its maximum.
    """
    axes = figure.subplots()
    for place, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(place, COLUMNS)
        height, width = (0.47 * side / max(pixels.shape[1:]) for side in pixels.shape[1:])
        extent = (column - width, column + width, -1.25 * row - height, -1.25 * row + height)
        axes.imshow(_visible(pixels), "gray", vmin=0, vmax=1, extent=extent)
        text = textwrap.fill(truncate(caption, 99), 16, max_lines=2, placeholder="…")
        axes.text(column, -1.25 * row - 0.49, text, fontsize=6.5, linespacing=1, ha="center", va="top")
    axes.set(xlim=(-0.5, COLUMNS - 0.5), ylim=(-1.25 * math.ceil(len(pictures) / COLUMNS) + 0.5, 0.5))
    axes.axis("off")


def _visible(pixels: Tensor) -> np.ndarray:
    """Return an image as matplotlib reads it, in [0, 1]: (height, width) in gray, or (height, width, 3)."""
    values = pixels.detach().cpu().float().nan_to_num()
    low, high = (values.min(), values.max()) if pixels.is_floating_point() else (torch.zeros(()), torch.full((), 255.0))
    values = (values - low) / (high - low).clamp(min=1e-12)
    return (values.permute(1, 2, 0) if len(values) == 3 else values.mean(0)).numpy()


@as_image(height=3.2)
def forecasts(figure: "Figure", history: Tensor, truth: Tensor, predicted: Tensor, captions: Sequence[str]) -> None:
    """Draw up to three forecasts after the end of the history, one panel each.

    Args:
        history: Known values, (N, steps); the last steps are shown, four times the horizon but at least 32.
        truth, predicted: Actual and forecast values, (N, horizon).
        captions: One per example; a repeated one is shown once.
    """
    count, horizon = min(PANELS, len(truth)), truth.shape[1]
    before, came, said = (part[:count].detach().double().cpu().numpy() for part in (history, truth, predicted))
    before = before[:, -max(32, 4 * horizon) :]
    past, known = np.arange(1 - before.shape[1], 1), before[:, -1:]
    ahead = np.arange(1 - known.shape[1], horizon + 1)
    lines = [
        (past, before, "history", GREY),
        (ahead, np.concatenate([known, came], 1), "truth", INK),
        (ahead, np.concatenate([known, said], 1), "forecast", COLOURS[1]),
    ]
    panels = figure.subplots(max(1, count), sharex=True, squeeze=False)[:, 0]
    for example, axes in enumerate(panels[:count]):
        axes.axvline(0, color=FAINT, linewidth=0.8)
        for steps, values, name, colour in lines:
            axes.plot(steps, values[example], color=colour, linewidth=1.2, label=name)
        axes.locator_params("y", nbins=4)
        if example == 0 or captions[example] != captions[example - 1]:
            axes.set_title(truncate(captions[example], 38))
    panels[-1].set_xlabel("steps ahead")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)


@as_image(height=3.1)
def scatter(figure: "Figure", points: Tensor, classes: Tensor | None, names: Sequence[str], title: str) -> None:
    """Draw points, (N, 2), with equal scales on both axes; of more than ten classes nine have their own color.

    The farthest half percent on each side may lie outside; the title states how many do.

    Args:
        classes: Index in ``names`` of each point, (N,); None for one color and no names.
    """
    points = points.detach().double().cpu()
    labels = list(names) if classes is not None and len(names) else [""]
    kinds = torch.zeros(len(points)) if classes is None else classes.detach().cpu().clamp(max=len(COLOURS) - 1)
    if len(labels) > len(COLOURS):
        labels[len(COLOURS) - 1 :] = [f"{len(labels) - len(COLOURS) + 1} more"]
    spans = torch.tensor([_span(points[:, axis]) for axis in (0, 1)], dtype=torch.double)
    middle, half = spans.mean(1), (spans[:, 1] - spans[:, 0]).max() / 2
    low, high = middle - half, middle + half
    inside = ((points >= low) & (points <= high)).all(1)
    outside = len(points) - int(inside.sum())
    figure.set_layout_engine("none")  # the axes of all frames of a film are in the same place
    axes = figure.add_axes((0.15, 0.21, 0.79, 0.714), aspect="equal")
    axes.set_title(truncate(title, 38) + (f" ({outside:,} outside)" if outside else ""))
    axes.set(xlim=(float(low[0]), float(high[0])), ylim=(float(low[1]), float(high[1])))
    axes.locator_params(nbins=5)
    size = 2.4 if len(points) <= MANY else 1.4
    for kind, (name, colour) in enumerate(zip(labels, COLOURS, strict=False)):
        x, y = points[inside & (kinds == kind)].T.numpy()
        label = truncate(name, 28 // min(4, len(labels)))
        axes.plot(x, y, "o", color=colour, markersize=size, markeredgewidth=0, alpha=0.85, label=label)
    if any(labels):
        figure.legend(loc="lower center", ncols=4, markerscale=3.6 / size, fontsize=6.5)


@as_image(height=1.9)
def histograms(figure: "Figure", values: Mapping[str, Tensor], title: str) -> None:
    """Draw the histogram of each set of numbers, of any shape, as shares in 40 bins; the legend has the means.

    The farthest half percent on each side may lie outside.
    """
    sets = {name: numbers.detach().double().cpu().flatten() for name, numbers in values.items()}
    sets = {name: numbers[numbers.isfinite()] for name, numbers in sets.items()}
    low, high = _span(torch.cat(list(sets.values())))
    axes = figure.subplots()
    axes.set_title(truncate(title, 38))
    for (name, numbers), colour in zip(sets.items(), COLOURS, strict=False):
        shares = torch.histc(numbers, BINS, low, high) / max(1, len(numbers))
        label = f"{truncate(name, 12)}, mean {float(numbers.mean()):.3g}" if len(numbers) else truncate(name, 12)
        axes.stairs(shares.numpy(), np.linspace(low, high, BINS + 1), fill=True, alpha=0.6, color=colour, label=label)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.locator_params(nbins=5)
    figure.legend(loc="outside lower center", ncols=2)


def _span(numbers: Tensor) -> tuple[float, float]:
    """Return the range of nearly all numbers, with a margin."""
    finite = numbers[numbers.isfinite()].sort().values
    if not len(finite):
        return 0.0, 1.0
    beyond = len(finite) // 200
    low, high = float(finite[beyond]), float(finite[-1 - beyond])
    room = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room
