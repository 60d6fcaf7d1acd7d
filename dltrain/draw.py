"""Pictures that say how well a model works, drawn with Pillow: each is a uint8 tensor of 3 x height x width."""

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Colours that stay apart for colour-blind readers. Source: Okabe, Ito 2008, "Color Universal Design".
BLUE = (0, 114, 178)
ORANGE = (213, 94, 0)
INK = (32, 33, 36)
GREY = (150, 155, 160)
FAINT = (226, 229, 233)
WHITE = (255, 255, 255)

SIZE = 13  # of text, in pixels
PAD = 12
TILE = 96  # the side that small pictures are enlarged to, about
SMOOTH = 3  # lines are drawn this many times larger and averaged down
PLOT = (400, 170)  # width and height of one panel's plotting area

Colour = tuple[int, int, int]
Point = tuple[float, float]


def confusion(counts: Tensor, names: Sequence[str]) -> Tensor:
    """A confusion matrix: shade is the share of the row, the count is written where it fits.

    Args:
        counts: Examples of each true class (row) that were taken for each class (column), classes x classes.
        names: One name per class.
    """
    counts = counts.detach().cpu().double()
    classes = len(counts)
    cell = min(64, max(12, 600 // classes)) if classes <= 100 else max(1, 1200 // classes)
    side = cell * classes + 1
    size = min(SIZE, max(10, cell - 2))
    labels = [_fit(name, 140, size) for name in names]
    margin = max(_width(label, size) for label in labels)
    level = margin + 4 <= cell
    left, top = PAD + 20 + margin + 6, PAD + 28
    below = (20 if level else margin + 12) + 22
    sheet = Image.new("RGB", (max(left + side + 76, left + 190), top + side + below + PAD), WHITE)
    right = f"accuracy {100 * float(counts.trace() / counts.sum().clamp(min=1)):.1f} % of {int(counts.sum()):,}"
    _write(sheet, (left, PAD + 8), right, "lm")
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    _paste(sheet, (left, top), _shaded(shares.sqrt(), cell))
    _counts(sheet, (left, top), counts, shares, cell)
    for index in range(0, classes, math.ceil(12 / cell)):
        middle = cell * index + cell // 2 + 1
        _write(sheet, (left - 6, top + middle), labels[index], "rm", size)
        _write(sheet, (left + middle, top + side + 6), labels[index], "mt" if level else "turned", size)
    _write(sheet, (PAD, top + side // 2), "true", "turned middle", colour=GREY)
    _write(sheet, (left + side // 2, top + side + below - 8), "predicted", "mm", colour=GREY)
    _scale(sheet, (left + side + 18, top), min(side, 200))
    return _tensor(sheet)


def _shaded(levels: Tensor, cell: int) -> Tensor:
    """Levels from 0 to 1 as white to blue squares with faint lines between: rows x columns -> height x width x 3."""
    colours = torch.tensor(WHITE) + levels[..., None] * (torch.tensor(BLUE) - torch.tensor(WHITE))
    squares = colours.round().byte().repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    if cell < 12:
        return squares
    framed = torch.tensor(FAINT, dtype=torch.uint8).repeat(squares.shape[0] + 1, squares.shape[1] + 1, 1)
    inner = torch.arange(squares.shape[0] + 1) % cell > 0
    framed[1:, 1:][inner[1:]] = squares[inner[1:]]
    framed[:, ~inner] = torch.tensor(FAINT, dtype=torch.uint8)
    return framed


def _counts(sheet: Image.Image, corner: tuple[int, int], counts: Tensor, shares: Tensor, cell: int) -> None:
    size = min(SIZE, cell // 2)
    if size < 9 or max(_width(f"{int(count)}", size) for count in counts.flatten()) + 4 > cell:
        return
    for row, column in counts.nonzero().tolist():
        colour = WHITE if shares[row, column] > 0.35 else INK
        at = (corner[0] + column * cell + cell // 2 + 1, corner[1] + row * cell + cell // 2 + 1)
        _write(sheet, at, f"{int(counts[row, column])}", "mm", size, colour)


def _scale(sheet: Image.Image, corner: tuple[int, int], height: int) -> None:
    """What the shades mean: a bar from 0 to 100 %."""
    x, y = corner
    shares = torch.linspace(1, 0, height)[:, None].expand(height, 12)
    _paste(sheet, corner, _shaded(shares.sqrt(), 1))
    for share in (0, 0.5, 1):
        _write(sheet, (x + 17, y + round((1 - share) * (height - 1))), f"{100 * share:.0f} %", "lm", 11, GREY)


def grid(pictures: Tensor, captions: Sequence[str], columns: int = 8) -> Tensor:
    """Pictures side by side, each with its caption below (``\\n`` breaks a line).

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
        weight: out x in x height x width, shown in colour when in is 3, else the mean over in.
        columns: Filters in one row.
        most: Number of filters to show.
    """
    weight = weight[:most].detach().float().cpu()
    weight = weight if weight.shape[1] == 3 else weight.mean(1, keepdim=True)
    bound = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    pictures = (127.5 + 127.5 * weight / bound).round().byte()
    return _tiled([_visible(picture) for picture in pictures], [""] * len(pictures), columns)


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
        return image.resize((_part(image.width, longest), _part(image.height, longest)), Image.Resampling.BOX)
    times = max(1, round(TILE / longest))
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)


def _part(length: int, longest: int) -> int:
    return max(1, 2 * TILE * length // longest)


def _tiled(images: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Tensor:
    if not images:
        captions, images = ["nothing to show"], [Image.new("RGB", (TILE, 1), WHITE)]
    widest = max(_width(line) for caption in captions for line in caption.split("\n"))
    width = max(*(image.width for image in images), min(widest, 150)) if widest else max(i.width for i in images)
    line = SIZE + 3
    spoken = max(len(caption.split("\n")) for caption in captions) * line + 4 if widest else 0
    gap = PAD if widest else 4
    height = max(image.height for image in images)
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    size = (columns * (width + gap) - gap + 2 * PAD, rows * (height + spoken + gap) - gap + 2 * PAD)
    sheet = Image.new("RGB", size, WHITE)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = PAD + index % columns * (width + gap), PAD + index // columns * (height + spoken + gap)
        sheet.paste(image, (x + (width - image.width) // 2, y + height - image.height))
        for number, words in enumerate(caption.split("\n")):
            _write(sheet, (x + width // 2, y + height + 4 + line // 2 + number * line), _fit(words, width), "mm")
    return _tensor(sheet)


def forecasts(history: Tensor, truth: Tensor, predicted: Tensor, captions: Sequence[str], unit: str = "") -> Tensor:
    """Up to six forecasts beside what came: one panel each, over the end of the history.

    Args:
        history: What was known, examples x steps; the last steps are shown, at most four times the horizon (or 32).
        truth: What came, examples x horizon.
        predicted: What was forecast, examples x horizon.
        captions: One per example.
        unit: Unit of the values, written above each axis.
    """
    shown = min(6, len(truth))
    horizon = truth.shape[1]
    past = history[:shown, -max(32, 4 * horizon) :]
    series = [torch.cat([past, part[:shown]], 1).detach().double().cpu() for part in (truth, predicted)]
    panels = [_Panel(values, other, past.shape[1]) for values, other in zip(*series, strict=True)]
    margin = max(panel.margin for panel in panels) + 10
    columns = min(2, shown)
    width, height = PLOT[0] + margin + 2 * PAD, PLOT[1] + 78
    size = (columns * width + PAD, math.ceil(shown / columns) * height + 34)
    places = [(i % columns * width + margin + PAD, i // columns * height + 70) for i in range(shown)]
    strokes = [s for panel, place in zip(panels, places, strict=True) for s in panel.strokes(*place)]
    legend = [("history", GREY), ("truth", INK), ("forecast", ORANGE)]
    starts = [PAD + margin + 100 * number for number in range(3)]
    strokes += [([(x, 18), (x + 22, 18)], colour, 2.5) for x, (_, colour) in zip(starts, legend, strict=True)]
    sheet = _smooth(size, strokes)
    for x, (name, _) in zip(starts, legend, strict=True):
        _write(sheet, (x + 28, 18), name, "lm")
    for panel, place, caption in zip(panels, places, captions, strict=False):
        panel.words(sheet, place, caption, unit)
    return _tensor(sheet)


class _Panel:
    """One forecast: where values and steps lie, and how it is drawn. Step 0 is the last known one."""

    def __init__(self, truth: Tensor, predicted: Tensor, known: int) -> None:
        self.truth = truth.tolist()
        self.predicted = predicted.tolist()
        self.known = known
        values = torch.cat([truth, predicted])
        values = values[values.isfinite()]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        room = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
        self.low, self.high = low - room, high + room
        self.y_ticks = _ticks(self.low, self.high, 5)
        self.x_ticks = [tick for tick in _ticks(1 - known, len(self.truth) - known, 7) if float(tick).is_integer()]
        self.labels = _labels(self.y_ticks)
        self.margin = max(_width(label, 11) for label in self.labels)

    def point(self, step: float, value: float) -> Point:
        """Where a value lies, in pixels from the panel's corner."""
        x = PLOT[0] * (step - 1 + self.known) / max(1, len(self.truth) - 1)
        return x, PLOT[1] * (self.high - value) / (self.high - self.low)

    def strokes(self, left: int, top: int) -> list[tuple[list[Point], Colour, float]]:
        """Every line of the panel: points, colour, width."""
        width, height = PLOT
        now = self.point(0, 0)[0]
        ruled: list[tuple[list[Point], Colour, float]] = []
        for tick in self.y_ticks:
            y = self.point(0, tick)[1]
            ruled.append(([(0, y), (width, y)], FAINT, 1))
        ruled += [([(now, y), (now, y + 4)], GREY, 1) for y in range(0, height - 3, 8)]
        ruled += [
            ([(self.point(tick, 0)[0], height), (self.point(tick, 0)[0], height + 4)], GREY, 1) for tick in self.x_ticks
        ]
        ruled.append(([(0, 0), (0, height), (width, height)], GREY, 1))
        last = self.known - 1
        ruled += [(run, GREY, 2) for run in self._runs(self.truth, 0, self.known)]
        ruled += [(run, INK, 2) for run in self._runs(self.truth, last, len(self.truth))]
        ruled += [(run, ORANGE, 2.5) for run in self._runs(self.predicted, last, len(self.truth))]
        return [([(left + x, top + y) for x, y in points], colour, thick) for points, colour, thick in ruled]

    def _runs(self, values: list[float], start: int, stop: int) -> list[list[Point]]:
        """Points from one index to another, cut wherever a value is not finite."""
        pairs = pairwise(range(max(start, 0), stop))
        both = [(a, b) for a, b in pairs if math.isfinite(values[a]) and math.isfinite(values[b])]
        return [[self.point(i + 1 - self.known, values[i]) for i in pair] for pair in both]

    def words(self, sheet: Image.Image, place: tuple[int, int], caption: str, unit: str) -> None:
        """Caption, unit and the numbers along the axes."""
        left, top = place
        _write(sheet, (left, top - 26), _fit(caption, PLOT[0]), "lm")
        _write(sheet, (left, top - 9), unit, "lm", 11, GREY)
        for tick, label in zip(self.y_ticks, self.labels, strict=True):
            _write(sheet, (left - 6, top + round(self.point(0, tick)[1])), label, "rm", 11, GREY)
        for tick in self.x_ticks:
            label = f"{tick:+.0f}" if tick else "0"
            _write(sheet, (left + round(self.point(tick, 0)[0]), top + PLOT[1] + 7), label, "mt", 11, GREY)
        _write(sheet, (left + PLOT[0], top + PLOT[1] + 22), "steps", "rt", 11, GREY)


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two bounds, some ``about`` of them."""
    raw = (high - low) / about or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _labels(ticks: Sequence[float]) -> list[str]:
    """Ticks as short text, all with the same number of decimals."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    if max(abs(tick) for tick in ticks) >= 1e7 or step < 1e-4:
        return [f"{tick:.3g}" for tick in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def _smooth(size: tuple[int, int], strokes: Sequence[tuple[list[Point], Colour, float]]) -> Image.Image:
    """A white sheet with lines whose edges are averaged; Pillow's own lines have stairs."""
    large = Image.new("RGB", (size[0] * SMOOTH, size[1] * SMOOTH), WHITE)
    draw = ImageDraw.Draw(large)
    for points, colour, width in strokes:
        scaled = [(round(x * SMOOTH) + SMOOTH // 2, round(y * SMOOTH) + SMOOTH // 2) for x, y in points]
        draw.line(scaled, colour, round(width * SMOOTH), joint="curve")
    return large.reduce(SMOOTH)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _width(text: str, size: int = SIZE) -> int:
    return math.ceil(_font(size).getlength(text))


def _fit(text: str, width: int, size: int = SIZE) -> str:
    """The text, shortened until it is no wider than ``width`` pixels."""
    if _width(text, size) <= width:
        return text
    while text and _width(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _write(
    sheet: Image.Image, at: tuple[int, int], text: str, anchor: str, size: int = SIZE, colour: Colour = INK
) -> None:
    """Write at a point that ``anchor`` names in Pillow's letters; ``turned`` reads upwards and ends at the point."""
    if not anchor.startswith("turned"):
        ImageDraw.Draw(sheet).text(at, text, colour, _font(size), anchor)
        return
    mask = Image.new("L", (_width(text, size) + 2, size + 4))
    ImageDraw.Draw(mask).text((1, size // 2 + 2), text, 255, _font(size), "lm")
    mask = mask.rotate(90, expand=True)
    x, y = at
    corner = (x, y - mask.height // 2) if anchor == "turned middle" else (x - mask.width // 2, y)
    sheet.paste(colour, corner, mask)


def _paste(sheet: Image.Image, corner: tuple[int, int], picture: Tensor) -> None:
    sheet.paste(Image.fromarray(picture.contiguous().numpy()), corner)


def _tensor(sheet: Image.Image) -> Tensor:
    flat = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
    return flat.view(sheet.height, sheet.width, 3).permute(2, 0, 1).contiguous()
