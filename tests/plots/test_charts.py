"""Charts: the axes show the data, and unusual names and values can be drawn."""

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from dltrain.plots import charts
from dltrain.plots.charts import COLORS, PANELS
from dltrain.plots.figures import STYLE

NAMES = ["日本語", "עברית", "हिन्दी", "Ελληνικά", "🙂", "$x^2$ & $", "a\udc80\0\nb", "", "long " * 99]


def figure_of(chart, *args):
    """Return the figure of a chart without rendering it."""
    with style.context(["default", STYLE]):
        figure = Figure(layout="constrained")
        chart.__wrapped__(figure, *args)
    return figure


def is_image(image: Tensor) -> bool:
    return image.dtype == torch.uint8 and image.dim() == 3 and len(image) == 3 and image.is_contiguous()


def is_drawn(image: Tensor) -> bool:
    """Return whether an image has dark pixels and a white border."""
    edges = (image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1])
    return is_image(image) and bool((image < 128).any()) and all(bool((edge > 250).all()) for edge in edges)


# --- all charts -----------------------------------------------------------------------------------------------------

STEPS = torch.linspace(0, 1, 20).expand(3, -1)
CHARTS = {
    "confusion": lambda names: charts.confusion(torch.eye(len(names)), names),
    "captioned": lambda names: charts.captioned(torch.rand(len(names), 1, 8, 8), names),
    "forecasts": lambda names: charts.forecasts(STEPS, STEPS, STEPS, names[-3:]),
    "scatter": lambda names: charts.scatter(torch.rand(len(names), 2), torch.arange(len(names)), names, names[-1]),
    "histograms": lambda names: charts.histograms({name: torch.rand(9) for name in names[-2:]}, names[-1]),
}


@pytest.mark.parametrize("kind", CHARTS)
def test_names_in_any_script_and_of_any_length_are_drawn_without_a_warning(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_drawn(CHARTS[kind](NAMES))


CARD = 270  # width in pixels of an image card in TensorBoard
WORDS = ["airplane", "automobile", "Bird of prey", "cat", "deer", "dog", "frog", "horse", "ship", "Truck"]
WIDE = {
    "confusion": (charts.confusion, torch.eye(10).long() * 9000, WORDS),
    "captioned": (charts.captioned, torch.rand(6, 1, 8, 8), [f"{word}, not automobile" for word in WORDS[:6]]),
    "forecasts": (
        charts.forecasts,
        1e4 * STEPS,
        1e4 * STEPS,
        -1e4 * STEPS,
        ["Mean temperature (°C), 2001-01-06 in all"] * 3,
    ),
    "scatter": (
        charts.scatter,
        torch.randn(900, 2) ** 3,
        torch.arange(900) % 10,
        WORDS,
        "latent means of test examples",
    ),
    "histograms": (
        charts.histograms,
        {"real": torch.rand(9), "generated": -1e-9 * torch.rand(9)},
        "outputs of the critic",
    ),
}


@pytest.mark.parametrize("kind", WIDE)
def test_text_in_a_chart_is_legible_in_a_tensorboard_card_and_not_cut_off(kind, monkeypatch):
    figures = []
    draw = FigureCanvasAgg.draw
    monkeypatch.setattr(FigureCanvasAgg, "draw", lambda canvas: [figures.append(canvas.figure), draw(canvas)])
    chart, *args = WIDE[kind]
    chart(*args)
    (figure,) = figures
    pixels_per_point = CARD / (72 * figure.get_figwidth())
    assert len(figure.axes) <= 3
    within = figure.bbox.padded(1)
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    ticks = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()}
    cells = set(figure.axes[0].texts) if kind == "confusion" else set()
    for text in texts:
        assert text in cells or text.get_fontsize() * pixels_per_point >= 10, text
        box = text.get_window_extent()
        if text not in ticks:  # matplotlib does not draw tick labels outside the axis limits
            assert within.contains(box.x0, box.y0) and within.contains(box.x1, box.y1), (text, box)
    lines = [
        line for axes in figure.axes for line in axes.lines if line.get_label() in ("history", "truth", "forecast")
    ]
    assert all(line.get_linewidth() * pixels_per_point >= 2 for line in lines)


@pytest.mark.parametrize("kind", CHARTS)
def test_a_chart_depends_only_on_its_data(kind, monkeypatch):
    # matplotlib's settings and earlier charts must have no effect; otherwise a resumed run would draw other charts.
    import matplotlib

    torch.manual_seed(0)
    first = CHARTS[kind](list("abcde"))
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "black")
    torch.manual_seed(0)
    assert torch.equal(first, CHARTS[kind](list("abcde")))
    assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.slow
def test_the_first_chart_imports_matplotlib_without_pyplot():
    code = (
        "import sys, torch, warnings; from dltrain.plots import charts, grids; grids.images(torch.rand(1, 1, 8, 8));"
        "warnings.simplefilter('error');"  # warnings from the import of matplotlib must be suppressed
        "print('matplotlib' in sys.modules); charts.histograms({'a': torch.rand(9)}, '');"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["False", "True", "False"]


def test_colors_differ_with_and_without_protanopia():
    # Protanopia is simulated as in Viénot et al. 1999.
    to_lms = torch.tensor([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    protanopia = torch.tensor([[0.0, 2.02344, -2.52581], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    colors = 255 * torch.tensor([to_rgb(color) for color in COLORS])
    for seen in (colors, colors @ (torch.linalg.inv(to_lms) @ protanopia @ to_lms).T):
        assert float(torch.pdist(seen).min()) > 20


# --- confusion ------------------------------------------------------------------------------------------------------


def test_a_confusion_matrix_is_shaded_by_the_fractions_of_each_row_and_shows_counts():
    (axes,) = figure_of(charts.confusion, torch.tensor([[3, 1], [0, 1000]]), ["cat", "dog"]).axes
    assert np.allclose(np.square(axes.images[0].get_array()), [[0.75, 0.25], [0, 1]])
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "3", (1, 0): "1", (1, 1): "1000"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]
    assert axes.get_title("left") == "accuracy 99.9 % of 1,004"


@pytest.mark.parametrize("classes", [1, 300, *(pytest.param(n, marks=pytest.mark.slow) for n in (10, 47))])
def test_a_confusion_matrix_of_any_size_is_drawn_with_and_without_examples(classes):
    names = [f"a rather long class name {number}" for number in range(classes)]
    for counts in (torch.zeros(classes, classes), torch.eye(classes).long() * 9_000_000):
        assert is_drawn(charts.confusion(counts, names))


# --- captioned images -----------------------------------------------------------------------------------------------


def test_float_images_are_scaled_to_range_from_black_to_white_and_uint8_images_are_not():
    images = torch.tensor([[2.0, 4.0], [-1.0, 0.0]]).view(2, 1, 1, 2)
    (axes,) = figure_of(charts.captioned, images, ["one", "two"]).axes
    assert [image.get_array().tolist() for image in axes.images] == [[[0, 1]], [[0, 1]]]
    assert [text.get_text() for text in axes.texts] == ["one", "two"]
    (axes,) = figure_of(charts.captioned, torch.full((1, 3, 2, 2), 51, dtype=torch.uint8), ["red"]).axes
    assert np.allclose(axes.images[0].get_array(), np.full((2, 2, 3), 0.2))


def test_a_missing_caption_is_rejected():
    with pytest.raises(ValueError, match="zip"):
        charts.captioned(torch.zeros(3, 1, 8, 8), ["a", "b"])


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (1, 3, 700, 35), (2, 2, 8, 8)])
def test_charts_without_images_and_with_images_of_nan_can_be_drawn(shape):
    assert is_image(charts.captioned(torch.full(shape, math.nan), ["a"] * shape[0]))


# --- forecasts ------------------------------------------------------------------------------------------------------


def test_truth_and_forecast_start_at_the_end_of_the_history():
    history, truth, predicted = torch.arange(40.0)[None], torch.tensor([[50.0, 60.0]]), torch.tensor([[7.0, 8.0]])
    (axes,) = figure_of(charts.forecasts, history, truth, predicted, ["sales (units)"]).axes
    lines = {line.get_label(): [list(axis) for axis in line.get_data()] for line in axes.lines}
    assert lines["truth"] == [[0, 1, 2], [39, 50, 60]]
    assert lines["forecast"] == [[0, 1, 2], [39, 7, 8]]
    assert lines["history"] == [list(range(-31, 1)), list(range(8, 40))]
    assert axes.get_title("left") == "sales (units)"


@pytest.mark.parametrize("number", [0, 1, 2, 9])
def test_at_most_three_panels_are_drawn_and_a_shared_caption_appears_once(number):
    wave = torch.randn(number, 60, generator=torch.Generator().manual_seed(0)) * 1e5
    figure = figure_of(charts.forecasts, wave[:, :48], wave[:, 48:], wave[:, 48:], ["co2"] * number)
    assert len(figure.axes) == max(1, min(number, PANELS))
    assert [axes.get_title("left") for axes in figure.axes].count("co2") == min(number, 1)


def test_a_chart_of_no_forecasts_can_be_drawn():
    assert is_image(charts.forecasts(torch.zeros(0, 48), torch.zeros(0, 12), torch.zeros(0, 12), []))


@pytest.mark.parametrize(
    "value",
    [*(0.0, 3e38, math.nan, math.inf), *(pytest.param(value, marks=pytest.mark.slow) for value in (-3.0, 1e-9, 1e12))],
)
def test_constant_and_non_finite_series_can_be_drawn(value):
    flat = torch.full((2, 40), value)
    assert is_drawn(charts.forecasts(flat, flat[:, :1], flat[:, :1], ["a", "b"]))


# --- scatter --------------------------------------------------------------------------------------------------------


def test_points_are_drawn_by_class_with_equal_scales_on_both_axes():
    points = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 5.0]])
    figure = figure_of(charts.scatter, points, torch.tensor([0, 1, 0]), ["real", "generated"], "points")
    (axes,) = figure.axes
    lines = {line.get_label(): np.transpose(line.get_data()).tolist() for line in axes.lines}
    assert lines == {"real": [[0, 0], [0, 5]], "generated": [[10, 0]]}
    assert np.ptp(axes.get_xlim()) == pytest.approx(np.ptp(axes.get_ylim()))
    assert axes.get_aspect() == 1


def test_the_farthest_points_are_outside_the_axes_and_counted_in_the_title():
    far = torch.cat([torch.rand(1000, 2), torch.full((3, 2), 1e6), torch.full((2, 2), math.nan)])
    (axes,) = figure_of(charts.scatter, far, None, (), "points").axes
    assert axes.get_title("left").startswith("points (")
    assert -0.2 < axes.get_xlim()[0] < 0 < 1 < axes.get_xlim()[1] < 1.2


def test_the_legend_counts_the_classes_that_share_the_last_color():
    figure = figure_of(charts.scatter, torch.rand(47, 2), torch.arange(47), [str(n) for n in range(47)], "codes")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*map(str, range(9)), "38 more"]
    assert len(figure.axes[0].lines[-1].get_xdata()) <= 38


@pytest.mark.parametrize("spread", [1e-4, 1e30, *(pytest.param(s, marks=pytest.mark.slow) for s in (1.0, 1e5))])
def test_the_axes_of_a_scatter_plot_have_the_same_position_for_all_ranges_of_points(spread):
    points = spread * torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) + 3 * spread
    kinds = torch.arange(100) % 2
    expected = (
        figure_of(charts.scatter, torch.rand(100, 2), kinds, ["real", "generated"], "a").axes[0].get_position().bounds
    )
    assert (
        figure_of(charts.scatter, points, kinds, ["real", "generated"], "b").axes[0].get_position().bounds == expected
    )
    assert is_drawn(charts.scatter(points, kinds, ["real", "generated"], "b"))


@pytest.mark.parametrize("points", [torch.zeros(0, 2), torch.zeros(1, 2), torch.full((5, 2), math.nan)])
def test_scatter_plots_of_zero_or_one_point_or_of_nan_can_be_drawn(points):
    assert is_drawn(charts.scatter(points, None, (), "few"))
    assert is_drawn(charts.scatter(points, torch.zeros(len(points)), ["a"], "few"))


# --- histograms -----------------------------------------------------------------------------------------------------


def test_histograms_show_fractions_per_bin_and_the_mean_of_each_set():
    figure = figure_of(
        charts.histograms, {"real": torch.linspace(0, 1, 1000), "generated": torch.full((50,), 3.0)}, "outputs"
    )
    real, generated = (patch.get_data() for patch in figure.axes[0].patches)
    assert real.values.sum() == pytest.approx(1) == generated.values.sum()
    peak = generated.values.argmax()
    assert generated.edges[peak] <= 3 <= generated.edges[peak + 1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["real, mean 0.5", "generated, mean 3"]


@pytest.mark.parametrize(
    "values", [torch.zeros(0), torch.ones(5), torch.tensor([math.nan, math.inf]), torch.rand(3, 4)]
)
def test_histograms_of_empty_or_constant_or_non_finite_sets_can_be_drawn(values):
    assert is_drawn(charts.histograms({"one": values, "other": torch.rand(9)}, ""))


def test_a_histogram_of_one_empty_set_can_be_drawn():
    assert is_drawn(charts.histograms({"one": torch.zeros(0)}, ""))
