"""Pictures that say how well a model works: each is a uint8 tensor of 3 x height x width."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from PIL import Image
from torch import Tensor, nn

from dltrain.plots.axes import tick_labels, ticks
from dltrain.plots.sheet import (
    BLUE,
    DIM,
    FAINT,
    GREY,
    INK,
    ORANGE,
    SIZE,
    SMALL,
    WHITE,
    Point,
    Sheet,
    Stroke,
    fit,
    width_of,
)

PAD = 12
TILE = 96  # the side that small pictures are enlarged to, about
PLOT = (400, 170)  # width and height of one panel's plotting area


def confusion(counts: Tensor, names: Sequence[str]) -> Tensor:
    """A confusion matrix: shade is the share of the row, the count is written where it fits.

    Args:
        counts: Examples of each true class (row) that were taken for each class (column), classes x classes.
        names: One name per class.
    """
    counts = counts.detach().cpu().double()
    classes = len(counts)
    cell = min(72, max(12, 600 // classes)) if classes <= 100 else max(1, 1200 // classes)
    side = cell * classes + 1
    size = min(SIZE, max(10, cell - 2))
    labels = [fit(name, 140, size) for name in names]
    margin = max(width_of(label, size) for label in labels)
    level = margin + 4 <= cell
    left, top = PAD + 26 + margin, PAD + 28
    bottom = top + side + (42 if level else margin + 34)
    sheet = Sheet(left + max(side + 76, 190), bottom + PAD)
    rate = 100 * float(counts.trace() / counts.sum().clamp(min=1))
    sheet.write(left, PAD + 8, f"accuracy {rate:.1f} % of {int(counts.sum()):,}")
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    sheet.paste(left, top, _shaded(shares, cell))
    _counts(sheet, left, top, counts, shares, cell)
    for index in range(0, classes, math.ceil(12 / cell)):
        middle = cell * index + cell // 2 + 1
        sheet.write(left - 6, top + middle, labels[index], "rm", size)
        below = sheet.write if level else sheet.write_upwards
        below(left + middle, top + side + 6, labels[index], "ma" if level else "t", size)
    sheet.write_upwards(PAD + 6, top + side // 2, "true", "m", colour=DIM)
    sheet.write(left + side // 2, bottom - 8, "predicted", "mm", colour=DIM)
    _scale(sheet, left + side + 18, top, min(side, 200))
    return sheet.tensor()


def _shaded(shares: Tensor, cell: int) -> Tensor:
    """Shares as white to blue squares, height x width x 3; the root makes few mistakes visible beside many hits."""
    white, blue, faint = (torch.tensor(colour, dtype=torch.uint8) for colour in (WHITE, BLUE, FAINT))
    colours = white + shares.sqrt()[..., None] * (blue.double() - white)
    squares = colours.round().byte().repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    if cell < 12:
        return squares
    framed = faint.repeat(squares.shape[0] + 1, squares.shape[1] + 1, 1)
    framed[:-1, :-1] = squares
    framed[::cell] = faint
    framed[:, ::cell] = faint
    return framed


def _counts(sheet: Sheet, left: int, top: int, counts: Tensor, shares: Tensor, cell: int) -> None:
    size = min(SIZE, cell // 2)
    if size < 9 or width_of(f"{int(counts.max())}", size) + 4 > cell:
        return
    for row, column in counts.nonzero().tolist():
        x, y = left + column * cell + cell // 2 + 1, top + row * cell + cell // 2 + 1
        sheet.write(x, y, f"{int(counts[row, column])}", "mm", size, WHITE if shares[row, column] > 0.35 else INK)


def _scale(sheet: Sheet, left: int, top: int, height: int) -> None:
    """What the shades mean: a bar from 0 to 100 %."""
    sheet.paste(left, top, _shaded(torch.linspace(1, 0, height).double()[:, None].expand(height, 12), 1))
    for share in (0, 0.5, 1):
        sheet.write(left + 17, top + round((1 - share) * (height - 1)), f"{100 * share:.0f} %", "lm", SMALL, DIM)


def grid(pictures: Tensor, captions: Sequence[str], columns: int = 8) -> Tensor:
    r"""Pictures side by side, each with its caption below (``\n`` breaks a line).

    Args:
        pictures: uint8, or floating and then stretched each from its own smallest to its own largest value;
            pictures x channels x height x width, shown in colour when there are 3 channels, else as their mean.
        captions: One per picture.
        columns: Pictures in one row.
    """
    return _tiled([_visible(picture) for picture in pictures], captions, columns)


def filters(weight: Tensor, columns: int = 8, most: int = 64) -> Tensor:
    """The first filters of a layer, each by its own range: grey is zero, brighter is positive, darker negative.

    Args:
        weight: out x in x height x width, shown in colour when in is 3, else as the mean over in.
        columns: Filters in one row.
        most: Number of filters to show.
    """
    weight = weight[:most].detach().float().cpu()
    weight = weight if weight.shape[1] == 3 else weight.mean(1, keepdim=True)
    bound = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    pictures = (127.5 + 127.5 * weight / bound).round().byte()
    return _tiled([_visible(picture) for picture in pictures], [""] * len(pictures), columns)


def first_filters(model: nn.Module) -> Tensor | None:
    """The `filters` of a model's first convolution over images that is larger than 1 x 1; None where there is none."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            return filters(module.weight)
    return None


def _visible(picture: Tensor) -> Image.Image:
    """One picture, channels x height x width, in a size that can be seen."""
    picture = picture.detach().cpu()
    if picture.is_floating_point():
        picture = picture.float().nan_to_num()
        low, high = picture.min(), picture.max()
        picture = (255 * (picture - low) / (high - low).clamp(min=1e-12)).round().byte()
    if len(picture) != 3:
        picture = picture.float().mean(0, keepdim=True).round().byte().expand(3, -1, -1)
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    longest = max(image.size)
    if longest > 2 * TILE:
        smaller = [max(1, 2 * TILE * length // longest) for length in image.size]
        return image.resize((smaller[0], smaller[1]), Image.Resampling.BOX)
    times = max(1, round(TILE / longest))
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)


def _tiled(images: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Tensor:
    """Pictures in rows; each column is as wide as the widest picture, or as captions need (but 150 pixels at most)."""
    if not images:
        images, captions = [Image.new("RGB", (TILE, 1), WHITE)], ["nothing to show"]
    texts = [caption.split("\n") for caption in captions]
    spoken = min(150, max(width_of(line) for text in texts for line in text))
    width = max(spoken, *(image.width for image in images))
    height = max(image.height for image in images)
    line, gap = SIZE + 3, PAD if spoken else 4
    below = 4 + line * max(len(text) for text in texts) if spoken else 0
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    right, down = width + gap, height + below + gap
    sheet = Sheet(columns * right - gap + 2 * PAD, rows * down - gap + 2 * PAD)
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        x, y = PAD + index % columns * right, PAD + index // columns * down
        sheet.paste(x + (width - image.width) // 2, y + height - image.height, image)
        for number, words in enumerate(text):
            sheet.write(x + width // 2, y + height + 4 + line // 2 + number * line, fit(words, width), "mm")
    return sheet.tensor()


def forecasts(history: Tensor, truth: Tensor, predicted: Tensor, captions: Sequence[str], unit: str = "") -> Tensor:
    """Up to six forecasts beside what came: one panel each, over the end of the history.

    Args:
        history: What was known, examples x steps; the last steps are shown, four times the horizon but at least 32.
        truth: What came, examples x horizon.
        predicted: What was forecast, examples x horizon.
        captions: One per example.
        unit: Unit of the values, written above each axis.
    """
    shown = min(6, len(truth))
    if not shown:
        return _tiled([], [], 1)
    past = history[:shown, -max(32, 4 * truth.shape[1]) :]
    both = [torch.cat([past, part[:shown]], 1).detach().double().cpu() for part in (truth, predicted)]
    panels = [_Panel(came, said, past.shape[1]) for came, said in zip(*both, strict=True)]
    left = PAD + 6 + max(panel.margin for panel in panels)
    right, down = PLOT[0] + left + PAD, PLOT[1] + 78
    columns = min(2, shown)
    places = [(left + i % columns * right, 70 + i // columns * down) for i in range(shown)]
    strokes = [stroke for panel, place in zip(panels, places, strict=True) for stroke in panel.strokes(*place)]
    legend = list(
        zip((left, left + 90, left + 170), ("history", "truth", "forecast"), (GREY, INK, ORANGE), strict=True)
    )
    strokes += [([(x, 18), (x + 22, 18)], colour, 2.5) for x, _, colour in legend]
    sheet = Sheet(columns * right + PAD, 34 + math.ceil(shown / columns) * down, strokes)
    for x, name, _ in legend:
        sheet.write(x + 28, 18, name)
    for panel, place, caption in zip(panels, places, captions[:shown], strict=True):
        panel.write(sheet, *place, caption, unit)
    return sheet.tensor()


class _Panel:
    """One forecast: where values and steps lie. Step 0 is the last known one."""

    def __init__(self, truth: Tensor, predicted: Tensor, known: int) -> None:
        self.truth, self.predicted = truth.tolist(), predicted.tolist()
        self.known = known
        values = torch.cat([truth, predicted])
        values = values[values.isfinite()]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        room = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
        self.low, self.high = low - room, high + room
        self.values = ticks(self.low, self.high, 5)
        self.steps = [tick for tick in ticks(1 - known, len(self.truth) - known, 7) if tick.is_integer()]
        self.labels = tick_labels(self.values)
        self.margin = max(width_of(label, SMALL) for label in self.labels)

    def x(self, step: float) -> float:
        """Where a step lies, in pixels from the left."""
        return PLOT[0] * (step - 1 + self.known) / max(1, len(self.truth) - 1)

    def y(self, value: float) -> float:
        """Where a value lies, in pixels from the top."""
        return PLOT[1] * (self.high - value) / (self.high - self.low)

    def strokes(self, left: int, top: int) -> list[Stroke]:
        """Every line of the panel, from back to front."""
        width, height = PLOT
        lines: list[Stroke] = [([(0, self.y(tick)), (width, self.y(tick))], FAINT, 1) for tick in self.values]
        lines += [([(self.x(0), y), (self.x(0), y + 4)], GREY, 1) for y in range(0, height - 3, 8)]
        lines += [([(self.x(tick), height), (self.x(tick), height + 4)], GREY, 1) for tick in self.steps]
        lines.append(([(0, 0), (0, height), (width, height)], GREY, 1))
        last, end = max(0, self.known - 1), len(self.truth)
        lines += [(pair, GREY, 2) for pair in self._pairs(self.truth, range(self.known))]
        lines += [(pair, INK, 3) for pair in self._pairs(self.truth, range(last, end))]
        lines += [(pair, ORANGE, 2) for pair in self._pairs(self.predicted, range(last, end))]
        return [([(left + x, top + y) for x, y in points], colour, thick) for points, colour, thick in lines]

    def _pairs(self, values: list[float], where: range) -> list[list[Point]]:
        """Neighbouring points, without those that are not finite."""
        finite = [(a, b) for a, b in pairwise(where) if math.isfinite(values[a]) and math.isfinite(values[b])]
        return [[(self.x(i + 1 - self.known), self.y(values[i])) for i in pair] for pair in finite]

    def write(self, sheet: Sheet, left: int, top: int, caption: str, unit: str) -> None:
        """Caption, unit and the numbers along the axes."""
        sheet.write(left, top - 26, fit(caption, PLOT[0]))
        sheet.write(left, top - 9, unit, "lm", SMALL, DIM)
        for tick, label in zip(self.values, self.labels, strict=True):
            sheet.write(left - 6, top + round(self.y(tick)), label, "rm", SMALL, DIM)
        for tick in self.steps:
            label = f"{tick:+.0f}" if tick else "0"
            sheet.write(left + round(self.x(tick)), top + PLOT[1] + 6, label, "ma", SMALL, DIM)
        sheet.write(left + PLOT[0], top + PLOT[1] + 21, "steps", "ra", SMALL, DIM)
