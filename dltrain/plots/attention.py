"""Plot of attention weights: how much each step of a target attends to each step of its source."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from dltrain.plots.figures import as_image, truncate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = 40  # names of steps are shown if neither axis has more steps


@as_image(height=2.7)
def attention(figure: "Figure", weights: Tensor, source: Sequence[str], target: Sequence[str]) -> None:
    """Draw attention weights: darker cells have more weight; each row is a step of the target and sums to 1.

    Args:
        weights: (len(target), len(source)).
        source, target: Names of the steps.
    """
    axes = figure.subplots()
    axes.set_title("attention of the target (rows) to the source")
    axes.imshow(weights.detach().float().cpu().numpy(), "Blues", vmin=0, vmax=1, aspect="auto")
    size = min(7.0, 130 / max(len(source), len(target)))
    if max(len(source), len(target)) <= LABELS:
        axes.set_xticks(range(len(source)), [truncate(name, 10) for name in source], fontsize=size, rotation=90)
        axes.set_yticks(range(len(target)), [truncate(name, 10) for name in target], fontsize=size)
    else:
        axes.set(xlabel="step of the source", ylabel="step of the target")
