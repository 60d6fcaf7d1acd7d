"""Plot of a recording: its log-mel features, and the times of its tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from dltrain.plots.figures import as_image, truncate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_MARKS = 60  # maximum number of tokens whose text is drawn


@as_image(height=1.6)
def spectrogram(
    figure: "Figure", frames: Tensor, seconds: float, marks: Sequence[tuple[float, str]], title: str
) -> None:
    """Draw log-mel features: time from left to right, high bands at the top, darker where there is more power.

    Args:
        frames: (frames, bands).
        seconds: Duration of all frames.
        marks: Time in seconds and text of each token; the first 60 are drawn above the features.
    """
    axes = figure.subplots()
    axes.set_title(truncate(title, 36), pad=10 if marks else 3)
    extent = (0.0, seconds, 0.0, float(frames.shape[1]))
    values = frames.detach().float().cpu().numpy().T
    axes.imshow(values, "Greys", aspect="auto", origin="lower", extent=extent, interpolation="nearest")
    axes.set(xlabel="seconds", ylabel="mel band")
    for time, text in marks[:MAX_MARKS]:
        axes.annotate(
            text.strip() or "\u00b7",
            (time, frames.shape[1]),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=min(6.0, 140 / max(1, len(marks))),
            annotation_clip=False,
        )
