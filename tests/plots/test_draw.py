import pytest
import torch
from sklearn.datasets import load_digits

from dltrain.plots import axes, draw
from dltrain.plots.sheet import BLUE, GREY, INK, ORANGE, fit, width_of


def where(picture, colour, tolerance=0):
    """Rows and columns of the pixels of one colour."""
    wanted = torch.tensor(colour)[:, None, None]
    return ((picture.int() - wanted).abs().amax(0) <= tolerance).nonzero()


def is_picture(picture):
    return picture.dtype == torch.uint8 and picture.dim() == 3 and len(picture) == 3 and picture.is_contiguous()


def margins_are_white(picture, pixels=3):
    edges = [picture[:, :pixels], picture[:, -pixels:], picture[:, :, :pixels], picture[:, :, -pixels:]]
    return all(bool((edge == 255).all()) for edge in edges)


@pytest.mark.parametrize("classes", [2, 3, 10, 47, 100, 150])
def test_a_confusion_matrix_of_any_size_stays_within_its_margins(classes):
    counts = torch.randint(0, 9, (classes, classes), generator=torch.Generator().manual_seed(classes))
    picture = draw.confusion(counts, [f"a rather long class name {i}" for i in range(classes)])
    assert is_picture(picture)
    assert max(picture.shape) < 1500
    assert margins_are_white(picture)


def test_full_rows_are_blue_on_the_diagonal_and_nowhere_else():
    picture = draw.confusion(torch.eye(20).long() * 7, [""] * 20)
    blue = where(picture, BLUE)
    rows, columns = blue[:, 0], blue[:, 1]
    matrix = columns < columns.min() + 600
    corner = torch.stack([rows[matrix].min(), columns[matrix].min()])
    squares = (blue[matrix] - corner) // 30
    assert torch.equal(squares[:, 0], squares[:, 1])
    assert len(squares.unique(dim=0)) == 20


def test_shades_are_shares_of_a_row_not_counts():
    few = draw.confusion(torch.tensor([[1, 0], [0, 1]]), ["", ""])
    mixed = draw.confusion(torch.tensor([[1, 0], [0, 1000]]), ["", ""])
    assert len(where(few, BLUE)) == pytest.approx(len(where(mixed, BLUE)), rel=0.05)


def test_a_class_without_examples_and_a_matrix_of_zeros_are_drawn():
    assert is_picture(draw.confusion(torch.tensor([[3, 1], [0, 0]]), ["a", "b"]))
    assert is_picture(draw.confusion(torch.zeros(5, 5), list("abcde")))


def test_counts_are_written_only_where_they_fit():
    fits = draw.confusion(torch.diag(torch.full((20,), 9)), [""] * 20)
    wide = draw.confusion(torch.diag(torch.full((20,), 9_000_000)), [""] * 20)
    assert len(where(fits, BLUE)) < len(where(wide, BLUE))


def test_a_byte_picture_is_shown_enlarged_with_every_pixel_as_it_was():
    pictures = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sheet = draw.grid(pictures, ["cat", "dog"])
    tile = pictures[1].repeat_interleave(3, 1).repeat_interleave(3, 2)
    left = draw.PAD + 96 + draw.PAD
    assert torch.equal(sheet[:, draw.PAD : draw.PAD + 96, left : left + 96], tile)


def test_digits_are_stretched_each_from_black_to_white():
    digits = torch.tensor(load_digits().images[:12]).float()[:, None]
    scales = 2.0 ** torch.arange(-6, 6)[:, None, None, None]
    captions = [f"{i}, said 3\n41 %" for i in range(12)]
    plain = draw.grid(digits, captions, columns=5)
    assert torch.equal(plain, draw.grid(digits * scales + 5 * scales, captions, columns=5))
    assert plain.shape[2] == 5 * 96 + 4 * draw.PAD + 2 * draw.PAD
    assert margins_are_white(plain)


def test_a_large_picture_is_made_smaller_and_one_value_everywhere_is_no_accident():
    assert draw.grid(torch.rand(1, 3, 700, 350), [""]).shape == (3, 192 + 24, 96 + 24)
    assert is_picture(draw.grid(torch.full((2, 1, 8, 8), float("nan")), ["a", "b"]))


def test_captions_lie_below_the_picture_and_are_shortened_to_its_column():
    with_caption = draw.grid(torch.zeros(1, 1, 8, 8), ["m" * 200])
    assert with_caption.shape[2] == 150 + 2 * draw.PAD
    assert margins_are_white(with_caption)
    assert len(where(with_caption[:, draw.PAD + 96 :], INK)) > 20
    assert fit("word " * 40, 100).endswith("...")
    assert width_of(fit("word " * 40, 100)) <= 100


def test_a_number_of_captions_other_than_of_pictures_is_refused():
    with pytest.raises(ValueError, match="zip"):
        draw.grid(torch.zeros(3, 1, 8, 8), ["a", "b"])


def test_no_pictures_and_no_forecasts_still_give_a_picture():
    none = torch.zeros(0, 5)
    assert is_picture(draw.grid(torch.zeros(0, 1, 8, 8), []))
    assert is_picture(draw.forecasts(none, none, none, []))


def test_a_filter_is_grey_at_zero_and_its_negative_is_its_reflection():
    weight = torch.zeros(2, 1, 3, 3)
    weight[:, 0, 0, 0] = torch.tensor([0.02, -5.0])
    sheet = draw.filters(weight)
    first, second = sheet[0, 12 : 12 + 96, 12 : 12 + 96], sheet[0, 12 : 12 + 96, 112 : 112 + 96]
    assert (first[5, 5], second[5, 5], first[50, 50], second[50, 50]) == (255, 0, 128, 128)


def test_three_input_channels_are_colours_and_others_their_mean():
    weight = torch.zeros(1, 3, 2, 2)
    weight[0, 1] = 1
    assert draw.filters(weight)[:, 50, 50].tolist() == [128, 255, 128]
    mean = draw.filters(torch.cat([weight, weight], 1))[:, 50, 50]
    assert mean.tolist() == [255, 255, 255]
    assert draw.filters(torch.randn(500, 4, 3, 3)).shape[1] == 8 * 100 + 20


def test_the_first_filters_of_a_model_are_those_of_its_first_real_convolution():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 5, 3), torch.nn.Conv2d(5, 9, 3))
    assert torch.equal(draw.first_filters(model), draw.filters(model[1].weight))
    assert draw.first_filters(torch.nn.Linear(2, 2)) is None


def panel(history, truth, predicted, **more):
    return draw.forecasts(history[None], truth[None], predicted[None], ["one"], **more)[:, 40:]


def test_a_forecast_above_the_truth_is_drawn_above_it_and_right_of_the_history():
    picture = panel(torch.zeros(32), torch.zeros(8), torch.full((8,), 4.0))
    orange, black = where(picture, ORANGE, 20), where(picture, INK, 20)
    truth = black[black[:, 1] > orange[:, 1].min()]
    level = truth[:, 0].mode().values
    assert orange[:, 0].min() < level - 100
    assert orange[:, 0].max() <= level + 3
    history = where(picture, GREY, 2)
    assert (history[history[:, 0] == level][:, 1] < orange[:, 1].min()).all()


def test_a_line_goes_through_its_points():
    steps = torch.arange(1.0, 33.0)
    picture = panel(torch.zeros(32), steps, steps)
    orange = where(picture, ORANGE, 20).double()
    rows, columns = orange[:, 0], orange[:, 1]
    upper, lower = orange[rows == rows.min()].mean(0), orange[rows == rows.max()].mean(0)
    expected = upper[0] + (columns - upper[1]) * (lower[0] - upper[0]) / (lower[1] - upper[1])
    assert (rows - expected).abs().max() < 4


@pytest.mark.parametrize("number", [1, 2, 3, 6, 9])
def test_at_most_six_panels_are_drawn_within_the_margins(number):
    wave = torch.randn(number, 60, generator=torch.Generator().manual_seed(0)) * 1e5
    captions = ["a very long caption " * 9] * number
    picture = draw.forecasts(wave[:, :48], wave[:, 48:], wave[:, 48:], captions, "thousands of kWh")
    assert is_picture(picture)
    assert margins_are_white(picture)
    rows = (min(number, 6) + 1) // 2
    assert picture.shape[1] == 34 + rows * (draw.PLOT[1] + 78)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-9, 1e12, float("nan")])
def test_a_constant_or_missing_series_is_drawn(value):
    flat = torch.full((2, 40), value)
    assert is_picture(draw.forecasts(flat, flat[:, :1], flat[:, :1], ["a", "b"]))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.7, 12.2), (0.001, 0.0013), (1e6, 9e6), (-5e-7, 5e-7)])
def test_ticks_are_round_numbers_inside_their_bounds(low, high):
    ticks = axes.ticks(low, high, 5)
    assert 2 <= len(ticks) <= 6
    assert low - 1e-9 <= min(ticks) <= max(ticks) <= high * (1 + 1e-9)
    assert len(set(axes.tick_labels(ticks))) == len(ticks)
    assert [float(label.replace(",", "")) for label in axes.tick_labels(ticks)] == pytest.approx(ticks)
