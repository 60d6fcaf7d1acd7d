"""Charts of a model's results, legible at a width of 270 pixels, as uint8 tensors ([frames,] 3, height, width)."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dltrain.plots.figures import FAINT, GRAY, INK, as_image, truncate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Source: Okabe, Ito 2008, "Color Universal Design", without yellow, which is faint on white; then two colors of the
# muted scheme of Tol 2021, "Colour schemes".
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK, "#882255", "#999933", GRAY)
# Colors of pixel classes; the first class is usually the background.
CLASS_COLORS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#f0e442", "#882255", GRAY)
TITLE = 32  # maximum length of a title that starts at the axes, in characters
PANELS = 3  # maximum number of forecasts in one chart
COLUMNS = 3  # captioned images in one row
PITCH = 1.4  # distance between rows of captioned images, as a multiple of the column width
BINS = 40
MANY_POINTS = 2500  # above this number, points are drawn smaller


def class_colors(count: int) -> Tensor:
    """Return a color for each pixel class, (count, 3) in [0, 1].

    From the eleventh class on, all colors but the first repeat.
    """
    chosen = [CLASS_COLORS[0], *(CLASS_COLORS[1:] * math.ceil(count / len(CLASS_COLORS[1:])))][:count]
    return torch.tensor([[int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)] for color in chosen])


@as_image(height=2.7)
def confusion(figure: "Figure", counts: Tensor, names: Sequence[str]) -> None:
    """Draw a confusion matrix: darker cells hold a larger fraction of their row; counts are shown where they fit.

    Args:
        counts: Number of examples by true class (row) and predicted class (column), (classes, classes).
    """
    counts = counts.detach().cpu().double()
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    rate = 100 * float(counts.trace() / counts.sum().clamp(min=1))
    axes = figure.subplots()
    total = int(counts.sum())
    axes.set_title(f"accuracy {rate:.1f} % of {total:{',' if total < 1e7 else '.3g'}}")
    # The square root keeps a few errors visible next to many correct predictions.
    axes.imshow(shares.sqrt().numpy(), "Blues", vmin=0, vmax=1)
    cell = 120 / len(counts)  # approximate size in points
    for row, column in counts.nonzero().tolist() if cell > 4 else ():
        text = f"{int(counts[row, column])}"
        size = min(7, cell, 1.5 * cell / len(text))
        color = "white" if shares[row, column] > 0.35 else INK
        if size > 4:
            note = axes.text(column, row, text, fontsize=size, color=color, ha="center", va="center_baseline")
            note.set_in_layout(False)  # each text fits its cell; measuring all of them would slow down the layout
    ticks = range(0, len(counts), math.ceil(len(counts) / 14))
    labels = [truncate(names[tick], 10) for tick in ticks]
    horizontal = len(ticks) * (1 + max(map(len, labels))) <= 36
    axes.set_xticks(ticks, labels, rotation=0 if horizontal else 90)
    axes.set_yticks(ticks, labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")


@as_image(height=2.6)
def captioned(figure: "Figure", images: Tensor, captions: Sequence[str]) -> None:
    """Draw images in rows of three, each above its caption.

    Args:
        images: (N, channels, height, width), drawn in color if there are 3 channels, otherwise as the mean of the
            channels in gray. Floats are scaled so that each image ranges from black to white; uint8 is not scaled.
        captions: One per image.
    """
    axes = figure.subplots()
    for place, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(place, COLUMNS)
        height, width = (0.47 * side / max(pixels.shape[1:]) for side in pixels.shape[1:])
        extent = (column - width, column + width, -PITCH * row - height, -PITCH * row + height)
        axes.imshow(_visible(pixels), "gray", vmin=0, vmax=1, extent=extent)
        text = textwrap.fill(truncate(caption, 99), 14, max_lines=3, placeholder="…")
        axes.text(column, -PITCH * row - 0.49, text, linespacing=1, ha="center", va="top")
    axes.set(xlim=(-0.5, COLUMNS - 0.5), ylim=(-PITCH * math.ceil(len(images) / COLUMNS) + 0.5, 0.5))
    axes.axis("off")


def captioned_clips(clips: Tensor, captions: Sequence[str]) -> Tensor:
    """Return an animation of clips above their captions, (frames, 3, H, W), drawn by `captioned` for each frame.

    Args:
        clips: Floats (N, channels, frames, height, width); each clip is scaled so that it ranges from black to white.
    """
    values = clips.detach().cpu().float().nan_to_num()
    low, high = (end.view(-1, 1, 1, 1, 1) for end in (values.flatten(1).amin(1), values.flatten(1).amax(1)))
    scaled = ((values - low) / (high - low).clamp(min=1e-12) * 255).round().byte()
    return torch.stack([captioned(frame, captions) for frame in scaled.unbind(2)])


def _visible(pixels: Tensor) -> np.ndarray:
    """Return an image in the form that matplotlib expects: in [0, 1], (height, width) in gray or (height, width, 3)."""
    values = pixels.detach().cpu().float().nan_to_num()
    low, high = (values.min(), values.max()) if pixels.is_floating_point() else (torch.zeros(()), torch.full((), 255.0))
    values = (values - low) / (high - low).clamp(min=1e-12)
    return (values.permute(1, 2, 0) if len(values) == 3 else values.mean(0)).numpy()


@as_image(height=3.2)
def forecasts(
    figure: "Figure",
    history: Tensor,
    truth: Tensor,
    predicted: Tensor,
    captions: Sequence[str],
    interval: Mapping[str, Tensor] | None = None,
) -> None:
    """Draw up to three forecasts with the end of their history, one panel each.

    Args:
        history: Known values, (N, steps); the last ``max(32, 4 * horizon)`` are shown.
        truth, predicted: Actual and forecast values, (N, horizon).
        captions: One per example; a caption that repeats the caption of the panel above is left out.
        interval: Bounds ``low`` and ``high`` of the forecast, (N, horizon) each; None or empty to draw none.
    """
    count, horizon = min(PANELS, len(truth)), truth.shape[1]
    before, actual, forecast = (part[:count].detach().double().cpu().numpy() for part in (history, truth, predicted))
    before = before[:, -max(32, 4 * horizon) :]
    past, known = np.arange(1 - before.shape[1], 1), before[:, -1:]
    ahead = np.arange(1 - known.shape[1], horizon + 1)
    lines = [
        (past, before, "history", GRAY),
        (ahead, np.concatenate([known, actual], 1), "truth", INK),
        (ahead, np.concatenate([known, forecast], 1), "forecast", COLORS[1]),
    ]
    panels = figure.subplots(max(1, count), sharex=True, squeeze=False)[:, 0]
    band = {name: bound.detach().double().cpu().numpy() for name, bound in (interval or {}).items()}
    for example, axes in enumerate(panels[:count]):
        if band:
            low, high = (np.append(known[example], band[name][example]) for name in ("low", "high"))
            axes.fill_between(ahead, low, high, color=COLORS[1], alpha=0.25, linewidth=0)
        axes.axvline(0, color=FAINT, linewidth=0.8)
        for steps, values, name, color in lines:
            axes.plot(steps, values[example], color=color, linewidth=1.8, label=name)
        axes.locator_params("y", nbins=3)
        if example == 0 or captions[example] != captions[example - 1]:
            axes.set_title(truncate(captions[example], TITLE))
    panels[-1].set_xlabel("steps ahead")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)


@as_image(height=3.1)
def scatter(figure: "Figure", points: Tensor, classes: Tensor | None, names: Sequence[str], title: str) -> None:
    """Draw points, (N, 2), with equal scales on both axes.

    With more than ten classes, the first nine have their own colors and all others share one color. Up to half a
    percent of the points may be outside the axes on each side; the title states how many are outside.

    Args:
        classes: Class of each point as an index into ``names``, (N,); None draws all points in one color.
    """
    points = points.detach().double().cpu()
    labels = list(names) if classes is not None and len(names) else [""]
    kinds = torch.zeros(len(points)) if classes is None else classes.detach().cpu().clamp(max=len(COLORS) - 1)
    if len(labels) > len(COLORS):
        labels[len(COLORS) - 1 :] = [f"{len(labels) - len(COLORS) + 1} more"]
    spans = torch.tensor([_span(points[:, axis]) for axis in (0, 1)], dtype=torch.double)
    middle, half = spans.mean(1), (spans[:, 1] - spans[:, 0]).max() / 2
    low, high = middle - half, middle + half
    inside = ((points >= low) & (points <= high)).all(1)
    outside = len(points) - int(inside.sum())
    figure.set_layout_engine("none")  # so that the axes do not move between the frames of an animation
    axes = figure.add_axes((0.17, 0.28, 0.76, 0.66), aspect="equal")
    note = f" ({outside:,} outside)" if outside else ""
    axes.set_title(truncate(title, TITLE + 8 - len(note)) + note, x=-0.2)  # starts at the edge of the figure
    axes.set(xlim=(float(low[0]), float(high[0])), ylim=(float(low[1]), float(high[1])))
    axes.locator_params(nbins=5)
    size = 3 if len(points) <= MANY_POINTS else 1.4
    for kind, (name, color) in enumerate(zip(labels, COLORS, strict=False)):
        x, y = points[inside & (kinds == kind)].T.numpy()
        label = truncate(name, 30 // min(3, len(labels)))
        axes.plot(x, y, "o", color=color, markersize=size, markeredgewidth=0, alpha=0.85, label=label)
    if any(labels):
        figure.legend(loc="lower center", ncols=3, markerscale=4 / size, fontsize=7.5, labelspacing=0.2)


@as_image(height=2.3)
def histograms(figure: "Figure", values: Mapping[str, Tensor], title: str) -> None:
    """Draw a histogram of each set of numbers, as fractions in 40 bins; the legend states the means.

    Up to half a percent of the numbers may be outside the axis on each side.

    Args:
        values: Name of the set -> its numbers, of any shape; NaN and infinity are left out.
    """
    sets = {name: numbers.detach().double().cpu().flatten() for name, numbers in values.items()}
    sets = {name: numbers[numbers.isfinite()] for name, numbers in sets.items()}
    low, high = _span(torch.cat(list(sets.values())))
    axes = figure.subplots()
    axes.set_title(truncate(title, TITLE))
    for (name, numbers), color in zip(sets.items(), COLORS, strict=False):
        shares = torch.histc(numbers, BINS, low, high) / max(1, len(numbers))
        label = f"{truncate(name, 12)}, mean {float(numbers.mean()):.3g}" if len(numbers) else truncate(name, 12)
        axes.stairs(shares.numpy(), np.linspace(low, high, BINS + 1), fill=True, alpha=0.6, color=color, label=label)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.locator_params(nbins=5)
    figure.legend(loc="outside lower center")


def _span(numbers: Tensor) -> tuple[float, float]:
    """Return the range of the finite numbers, plus a margin; half a percent at each end may be outside."""
    finite = numbers[numbers.isfinite()].sort().values
    if not len(finite):
        return 0.0, 1.0
    outside = len(finite) // 200
    low, high = float(finite[outside]), float(finite[-1 - outside])
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return low - margin, high + margin
