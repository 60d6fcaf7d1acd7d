"""Chart of gradient norms over the distance from the last step."""

import math
from typing import TYPE_CHECKING

from torch import Tensor

from dltrain.plots.charts import COLORS
from dltrain.plots.figures import as_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@as_image(height=2.2)
def distance_chart(figure: "Figure", norms: Tensor) -> None:
    """Draw the norm of the gradient at each distance from the last step; zeros are left out.

    The scale is logarithmic if the norms differ by more than a factor of 10.

    Args:
        norms: (T,), from the last step backward in time.
    """
    axes = figure.subplots()
    values = norms.detach().double().cpu()
    axes.set_title("gradient of the last step's loss")
    axes.set(xlabel="steps before the last step", ylabel="norm")
    shown = (values > 0).nonzero().flatten()
    if len(shown):
        if values[shown].max() > 10 * values[shown].min():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"1e{math.log10(value):.0f}")
        axes.plot(shown.numpy(), values[shown].numpy(), ".-", color=COLORS[0], linewidth=1, markersize=3)
    else:
        axes.text(0.5, 0.5, "all gradients are 0", transform=axes.transAxes, ha="center")
    axes.set_xlim(-0.5, len(values) - 0.5)
