"""Pictures of many examples: what is drawn is where it belongs, in colours that can be told apart."""

import math

import pytest
import torch
from torch import Tensor

from dltrain.plots import charts
from dltrain.plots.charts import ABOVE, COLOURS, FLAT, GAP, LEFT, SQUARE
from dltrain.plots.sheet import BLUE, ORANGE


def is_picture(picture: Tensor) -> bool:
    return picture.dtype == torch.uint8 and picture.dim() == 3 and len(picture) == 3 and picture.is_contiguous()


def margins_are_white(picture: Tensor, pixels: int = 3) -> bool:
    edges = [picture[:, :pixels], picture[:, -pixels:], picture[:, :, :pixels], picture[:, :, -pixels:]]
    return all(bool((edge == 255).all()) for edge in edges)


def near(picture: Tensor, colour: tuple[int, int, int], tolerance: int = 40) -> Tensor:
    """Where a colour lies within the plotting area, as (row, column) from its upper left corner."""
    area = picture[:, ABOVE : ABOVE + SQUARE[1], LEFT : LEFT + SQUARE[0]].int()
    return ((area - torch.tensor(colour)[:, None, None]).abs().amax(0) <= tolerance).nonzero().double()


def test_points_lie_where_their_numbers_say_one_unit_as_long_on_both_axes() -> None:
    points = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 5.0]]).repeat(20, 1)  # dots are opaque in stacks
    picture = charts.scatter(points, torch.arange(3).repeat(20), [" ", " ", " "], "three points")
    assert is_picture(picture)
    assert margins_are_white(picture)
    start, right, up = (near(picture, COLOURS[kind]).mean(0) for kind in range(3))
    assert float(right[0] - start[0]) == pytest.approx(0, abs=1)
    assert float(up[1] - start[1]) == pytest.approx(0, abs=1)
    assert float(right[1] - start[1]) == pytest.approx(2 * float(start[0] - up[0]), abs=2)


def test_class_names_stand_on_classes_that_lie_apart_and_in_the_legend_of_all() -> None:
    noise = torch.Generator().manual_seed(0)
    apart = torch.randn(200, 2, generator=noise) + torch.tensor([[0.0, 0.0], [30.0, 0.0]]).repeat(100, 1)
    together = torch.randn(100, 2, generator=noise).repeat_interleave(2, 0)
    kinds = torch.arange(2).repeat(100)
    for points, labelled in ((apart, True), (together, False)):
        named, silent = (charts.scatter(points, kinds, names, "") for names in (["one", "two"], ["", ""]))
        area = slice(LEFT, LEFT + SQUARE[0])
        assert bool((named[..., area] != silent[:, :, area]).any()) == labelled
        assert not torch.equal(named[..., -40:], torch.full_like(named[..., -40:], 255))


def test_the_farthest_points_lie_outside_and_are_counted() -> None:
    points = torch.rand(1000, 2)
    far = torch.cat([points, torch.full((3, 2), 1e6), torch.full((2, 2), math.nan)])
    picture = charts.scatter(far, None, (), "points")
    assert torch.equal(picture, charts.scatter(far, None, (), "points"))
    # All is as without them but for the words in the title.
    assert (near(picture, BLUE).amax(0) - near(picture, BLUE).amin(0) > 300).all()
    assert not torch.equal(picture[:, :ABOVE], charts.scatter(points, None, (), "points")[:, :ABOVE])


@pytest.mark.parametrize("spread", [1e-4, 1.0, 1e5])
def test_frames_of_a_film_have_one_size_whatever_the_numbers(spread: float) -> None:
    points = spread * torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) + 3 * spread
    wanted = charts.scatter(torch.rand(9, 2), torch.zeros(9), ["real", "made up"], "a").shape
    assert charts.scatter(points, torch.zeros(100), ["real", "made up"], "b").shape == wanted


@pytest.mark.parametrize("points", [torch.zeros(0, 2), torch.zeros(1, 2), torch.full((5, 2), math.nan)])
def test_nothing_one_point_and_no_numbers_are_drawn(points: Tensor) -> None:
    assert is_picture(charts.scatter(points, None, (), "few"))
    assert is_picture(charts.scatter(points, torch.zeros(len(points)), ["a"], "few"))


@pytest.mark.parametrize("classes", [10, 47, 300])
def test_many_classes_and_long_names_stay_within_the_margins(classes: int) -> None:
    kinds = torch.arange(classes).repeat(4)
    names = [f"a rather long class name {kind}" for kind in range(classes)]
    picture = charts.scatter(torch.randn(4 * classes, 2), kinds, names, "a title that is much too long " * 9)
    assert margins_are_white(picture)
    assert max(picture.shape) < 720


def test_colours_are_told_apart_by_everybody() -> None:
    """As a dichromat without the cones for long waves sees them (Viénot et al. 1999), no two are alike."""
    to_lms = torch.tensor([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    blind = torch.tensor([[0.0, 2.02344, -2.52581], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    colours = torch.tensor(COLOURS, dtype=torch.float)
    seen = colours @ (torch.linalg.inv(to_lms) @ blind @ to_lms).T
    for each in (colours, seen):
        assert float(torch.pdist(each).min()) > 20


def test_histograms_show_shares_in_bins_and_the_means() -> None:
    one, other = torch.linspace(0, 1, 1000), torch.linspace(3, 4, 50)
    picture = charts.histograms({"real": one, "made up": other}, "outputs")
    assert is_picture(picture)
    assert margins_are_white(picture)
    area = picture[:, ABOVE : ABOVE + FLAT[1], LEFT : LEFT + FLAT[0]]
    blue, orange = (
        ((area.int() - torch.tensor(colour)[:, None, None]).abs().amax(0) <= 40).nonzero() for colour in (BLUE, ORANGE)
    )
    high = FLAT[1] // 2
    assert blue[blue[:, 0] < high][:, 1].max() < orange[orange[:, 0] < high][:, 1].min()
    assert abs(int(blue[:, 0].min()) - int(orange[:, 0].min())) < 25  # both are even, however many numbers they are


@pytest.mark.parametrize(
    "values", [torch.zeros(0), torch.ones(5), torch.tensor([math.nan, math.inf]), torch.rand(3, 4)]
)
def test_histograms_of_nothing_of_one_number_and_of_none_are_drawn(values: Tensor) -> None:
    assert is_picture(charts.histograms({"one": values, "other": torch.rand(9)}, ""))
    assert is_picture(charts.histograms({"one": values}, ""))


def test_samples_are_the_pixels_themselves_on_a_scale_that_is_the_same_for_all() -> None:
    pictures = torch.rand(11, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures[0], pictures[1] = 0.5, 0.25
    sheet = charts.samples(pictures, columns=4)
    times, side = 7, 56
    assert is_picture(sheet)
    assert sheet.shape == (3, 3 * (side + GAP) + GAP, 4 * (side + GAP) + GAP)
    for number, picture in enumerate(pictures):
        y, x = (GAP + place * (side + GAP) for place in divmod(number, 4))
        tile = sheet[:, y : y + side, x : x + side]
        assert torch.equal(tile[:, ::times, ::times], (255 * picture).round().byte().expand(3, -1, -1))
        for shift in range(1, times):
            assert torch.equal(tile[:, shift::times], tile[:, ::times])
            assert torch.equal(tile[:, :, shift::times], tile[:, :, ::times])
    assert bool((sheet[:, -side:, -side:] == 255).all())


@pytest.mark.parametrize(("channels", "side", "tile"), [(3, 32, 64), (1, 28, 56), (2, 28, 56), (3, 200, 200)])
def test_colours_stay_and_other_channels_are_averaged(channels: int, side: int, tile: int) -> None:
    picture = torch.rand(1, channels, side, side)
    sheet = charts.samples(picture)
    assert sheet.shape == (3, tile + 2 * GAP, tile + 2 * GAP)
    shown = sheet[:, GAP : -GAP or None : tile // side, GAP : -GAP or None : tile // side]
    wanted = picture[0] if channels == 3 else picture[0].mean(0).expand(3, -1, -1)
    assert int((shown.int() - (255 * wanted).round().int()).abs().max()) <= 1


def test_what_is_beyond_black_and_white_or_no_number_is_drawn() -> None:
    sheet = charts.samples(torch.tensor([-5.0, 2.0, math.nan, 1.0]).view(4, 1, 1, 1))
    assert sheet[0, 30, [30, 88, 146, 204]].tolist() == [0, 255, 0, 255]
