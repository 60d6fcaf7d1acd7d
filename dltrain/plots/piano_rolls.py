"""Plots of piano rolls."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from dltrain.plots.figures import as_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN = 2  # semitones to draw above the highest and below the lowest note
OCTAVE = 12
MIDDLE_C, OCTAVE_OF_MIDDLE_C = 60, 4


@as_image(height=3.6)
def piano_rolls(figure: "Figure", rolls: Mapping[str, Tensor], lowest: int) -> None:
    """Draw piano rolls one below the other: time to the right, pitch upward; darker notes are more probable.

    Args:
        rolls: Title -> probabilities of the notes of each frame, (frames, notes).
        lowest: MIDI pitch of the first note.
    """
    panels = figure.subplots(len(rolls), sharex=True, sharey=True, squeeze=False)[:, 0]
    sounding = [roll.detach().cpu().float().amax(0) > 0.5 for roll in rolls.values() if len(roll)]
    pitches = [pitch for each in sounding for pitch in (each.nonzero()[:, 0] + lowest).tolist()] or [MIDDLE_C]
    for axes, (title, roll) in zip(panels, rolls.items(), strict=True):
        axes.set_title(title)
        frames, notes = roll.shape
        extent = (0, max(1, frames), lowest - 0.5, lowest + notes - 0.5)
        image = roll.detach().float().cpu().T.numpy()
        axes.imshow(image, "Blues", vmin=0, vmax=1, origin="lower", aspect="auto", extent=extent, interpolation="none")
        axes.set_ylim(min(pitches) - MARGIN, max(pitches) + MARGIN)
        ticks = [pitch for pitch in range(0, 128, OCTAVE) if min(pitches) - MARGIN <= pitch <= max(pitches) + MARGIN]
        axes.set_yticks(ticks, [f"C{OCTAVE_OF_MIDDLE_C + (pitch - MIDDLE_C) // OCTAVE}" for pitch in ticks])
    panels[-1].locator_params("x", integer=True)
    panels[-1].set_xlabel("frame")
