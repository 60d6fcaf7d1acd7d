"""Pictures of many examples at once, for generative models: each is a uint8 tensor of 3 x height x width."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dltrain.plots.axes import tick_labels, ticks
from dltrain.plots.sheet import DIM, FAINT, GREY, INK, SMALL, WHITE, Colour, Dot, Point, Sheet, Stroke, fit, width_of

# Source: Okabe, Ito 2008, "Color Universal Design", without their yellow, which is faint on white; then two of
# Tol 2021, "Colour schemes", muted.
COLOURS: tuple[Colour, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    INK,
    (136, 34, 85),
    (153, 153, 51),
    GREY,
)
SQUARE = (400, 400)  # width and height of a scatter plot's area
FLAT = (400, 170)  # of a histogram's
PAD = 12
LEFT = 56  # of the area; like all that surrounds it the same for all numbers, so that frames of a film have one size
ABOVE, BELOW = PAD + 26, PAD + 22
LINE = 19  # from one name of the legend to the next
NAMES, MOST = 150, 20  # width of the legend's names, and their number, at most
LARGE, TINY, MANY = 2.6, 1.6, 2500  # radius of a point, and of one of more than so many
APART = 24  # a class's name stands at the median of its points if no other class's is as near as this
BINS = 40
TILE, GAP = 56, 2  # the side that small pictures are enlarged to, and what is between them


def scatter(points: Tensor, classes: Tensor | None, names: Sequence[str], title: str) -> Tensor:
    """Points in a plane, coloured by class; one unit is as long on both axes.

    The farthest half per cent on each side may lie outside; the title says how many do.

    Args:
        points: N x 2.
        classes: Which of ``names`` each is of, N; None for one colour and no names.
        names: One per class.
        title: Written above.
    """
    points = points.detach().double().cpu()
    kinds = torch.zeros(len(points), dtype=torch.long) if classes is None else classes.detach().long().cpu()
    legend = [] if classes is None else list(names)
    area = _Area(SQUARE, *_square(points), legend)
    inside = area.holds(points)
    spots, kinds = [area.pixel(x, y) for x, y in points[inside].tolist()], kinds[inside]
    radius = LARGE if len(points) <= MANY else TINY
    dots = [(spot, _colour(kind), radius) for spot, kind in zip(spots, kinds.tolist(), strict=True)]
    outside = f" ({len(points) - len(spots):,} outside)" if len(spots) < len(points) else ""
    sheet = area.sheet(title + outside, dots=dots)
    for kind, (x, y) in _medians(torch.tensor(spots), kinds, len(legend)).items():
        _haloed(sheet, x, y, fit(legend[kind], 90))
    return sheet.tensor()


def histograms(values: Mapping[str, Tensor], title: str) -> Tensor:
    """How sets of numbers are spread: the share of each set's numbers in each of 40 bins, and their means.

    The farthest half per cent on each side may lie outside.

    Args:
        values: Name -> numbers, of any shape.
        title: Written above.
    """
    sets = {name: numbers.detach().double().cpu().flatten() for name, numbers in values.items()}
    sets = {name: numbers[numbers.isfinite()] for name, numbers in sets.items()}
    low, high = _span(torch.cat(list(sets.values())))
    shares = [torch.histc(numbers, BINS, low, high) / max(1, len(numbers)) for numbers in sets.values()]
    top = 1.05 * max(float(torch.stack(shares).max()), 0.01)
    legend = [f"{name}, mean {float(numbers.mean()):.3g}" if len(numbers) else name for name, numbers in sets.items()]
    area = _Area(FLAT, (low, high), (0.0, top), legend, percent=True)
    edges = torch.linspace(low, high, BINS + 1).tolist()
    outlines = [_outline(area, edges, heights.tolist(), _colour(kind)) for kind, heights in enumerate(shares)]
    return area.sheet(title, outlines).tensor()


def samples(pictures: Tensor, columns: int = 8, tile: int = TILE) -> Tensor:
    """Pictures side by side, black where they are 0 and white where they are 1; each pixel stays one square.

    Args:
        pictures: N x channels x height x width; shown in colour when there are 3 channels, else as their mean.
        columns: Pictures in one row.
        tile: The side that small pictures are enlarged to, about.
    """
    count, channels, height, width = pictures.shape
    pictures = pictures.detach().float().cpu().nan_to_num().clamp(0, 1)
    pictures = (pictures if channels == 3 else pictures.mean(1, keepdim=True).expand(-1, 3, -1, -1)).mul(255).round()
    times = max(1, round(tile / max(height, width)))
    pictures = pictures.byte().repeat_interleave(times, 2).repeat_interleave(times, 3)
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    down, right = height * times + GAP, width * times + GAP
    grid = torch.full((3, rows * down + GAP, columns * right + GAP), 255, dtype=torch.uint8)
    for index, picture in enumerate(pictures):
        y, x = GAP + index // columns * down, GAP + index % columns * right
        grid[:, y : y + height * times, x : x + width * times] = picture
    return grid


class _Area:
    """Where a chart's numbers lie on its sheet.

    Args:
        size: Width and height in pixels.
        across: Lowest and highest number from left to right.
        upwards: From below to above.
        legend: Names, each with the colour of its number; none if empty.
        percent: Numbers upwards are shares.
    """

    def __init__(
        self,
        size: tuple[int, int],
        across: tuple[float, float],
        upwards: tuple[float, float],
        legend: Sequence[str],
        percent: bool = False,
    ) -> None:
        self.width, self.height = size
        self.across, self.upwards = across, upwards
        more = [f"and {len(legend) - MOST} more"] if len(legend) > MOST else []
        self.legend, self.more, self.percent = [fit(name, NAMES) for name in legend[:MOST]], more, percent

    def pixel(self, x: float, y: float) -> Point:
        """Where a point lies, in pixels from the sheet's upper left corner."""
        (left, right), (low, high) = self.across, self.upwards
        return (
            LEFT + self.width * (x - left) / (right - left),
            ABOVE + self.height * (high - y) / (high - low),
        )

    def holds(self, points: Tensor) -> Tensor:
        """Which points lie within it; those that are no numbers do not."""
        low, high = torch.tensor([self.across, self.upwards], dtype=torch.double).T
        return ((points >= low) & (points <= high)).all(1)

    def sheet(self, title: str, strokes: Sequence[Stroke] = (), dots: Sequence[Dot] = ()) -> Sheet:
        """The chart with its axes, title and legend."""
        beside = LEFT + self.width + 22
        marks: list[Dot] = [((beside, ABOVE + 8 + LINE * n), _colour(n), 5) for n in range(len(self.legend))]
        names = [*self.legend, *self.more]
        room = 16 + max(map(width_of, names)) if names else 0
        width, height = beside + room + PAD, ABOVE + max(self.height, LINE * len(names)) + BELOW
        sheet = Sheet(width, height, [*self._axes(), *strokes], [*dots, *marks])
        sheet.write(LEFT, PAD + 6, fit(title, width - LEFT - PAD))
        for number, name in enumerate(names):
            sheet.write(beside + 12, ABOVE + 8 + LINE * number, name)
        self._write(sheet)
        return sheet

    def _axes(self) -> list[Stroke]:
        (left, right), (low, high) = self.across, self.upwards
        lines = [[self.pixel(tick, low), self.pixel(tick, high)] for tick in ticks(left, right, 7)]
        lines += [[self.pixel(left, tick), self.pixel(right, tick)] for tick in ticks(low, high, 5)]
        corner = [self.pixel(left, high), self.pixel(left, low), self.pixel(right, low)]
        return [*((line, FAINT, 1) for line in lines), (corner, GREY, 1)]

    def _write(self, sheet: Sheet) -> None:
        across, upwards = ticks(*self.across, 7), ticks(*self.upwards, 5)
        for tick, label in zip(across, tick_labels(across), strict=True):
            x, y = self.pixel(tick, self.upwards[0])
            sheet.write(round(x), round(y) + 6, label, "ma", SMALL, DIM)
        labels = [f"{100 * tick:.0f} %" for tick in upwards] if self.percent else tick_labels(upwards)
        for tick, label in zip(upwards, labels, strict=True):
            x, y = self.pixel(self.across[0], tick)
            sheet.write(round(x) - 6, round(y), label, "rm", SMALL, DIM)


def _square(points: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """The least square around nearly all points: its two sides."""
    sides = [_span(points[:, axis]) for axis in (0, 1)]
    half = max(high - low for low, high in sides) / 2
    (x, y) = ((low + high) / 2 for low, high in sides)
    return (x - half, x + half), (y - half, y + half)


def _span(numbers: Tensor) -> tuple[float, float]:
    """From the lowest to the highest of nearly all numbers, and some room."""
    finite = numbers[numbers.isfinite()].sort().values
    if not len(finite):
        return 0.0, 1.0
    beyond = len(finite) // 200
    low, high = float(finite[beyond]), float(finite[-1 - beyond])
    room = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room


def _outline(area: _Area, edges: list[float], heights: list[float], colour: Colour) -> Stroke:
    """The steps of a histogram."""
    corners = [(edge, height) for index, height in enumerate(heights) for edge in edges[index : index + 2]]
    return [area.pixel(x, y) for x, y in [(edges[0], 0.0), *corners, (edges[-1], 0.0)]], colour, 2


def _medians(spots: Tensor, kinds: Tensor, count: int) -> dict[int, tuple[int, int]]:
    """Class -> the median of its points, for classes whose median lies by itself."""
    here = [kind for kind in range(count) if bool((kinds == kind).any())]
    middles = torch.stack([spots[kinds == kind].median(0).values for kind in here]) if here else torch.empty(0, 2)
    near = torch.cdist(middles, middles).fill_diagonal_(math.inf)
    alone = [number for number in range(len(here)) if float(near[number].min()) >= APART]
    return {here[number]: (round(float(x)), round(float(y))) for number in alone for x, y in [middles[number]]}


def _haloed(sheet: Sheet, x: int, y: int, text: str) -> None:
    """Text that can be read on points of any colour."""
    for right in (-1, 0, 1):
        for down in (-1, 0, 1):
            sheet.write(x + right, y + down, text, "mm", colour=WHITE)
    sheet.write(x, y, text, "mm")


def _colour(kind: int) -> Colour:
    return COLOURS[kind % len(COLOURS)]
