"""Cutout: shape and position of the erased squares."""

import torch

from dltrain.datasets.cutout import Cutout
from dltrain.keyed_random import mix

COUNT, HEIGHT, WIDTH, SIDE = 4000, 9, 12, 5


def erased() -> torch.Tensor:
    """Return a mask of the pixels that `Cutout` erases in images of ones, bool (COUNT, HEIGHT, WIDTH)."""
    images = torch.ones(COUNT, 3, HEIGHT, WIDTH)
    changed = Cutout(SIDE)({"inputs": images}, mix(torch.arange(COUNT)))["inputs"]
    assert ((changed == 0) | (changed == 1)).all() and (images == 1).all()
    assert (changed.amin(1) == changed.amax(1)).all()  # all channels are equal
    return changed[:, 0] == 0


def test_cutout_erases_a_square_that_may_extend_beyond_the_image() -> None:
    for image in erased()[:200]:
        rows, columns = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
        assert image.sum() == len(rows) * len(columns)  # a rectangle without holes
        for indices, size in ((rows, HEIGHT), (columns, WIDTH)):
            assert indices.tolist() == list(range(int(indices[0]), int(indices[-1]) + 1))
            assert len(indices) == SIDE or indices[0] == 0 or indices[-1] == size - 1


def test_each_pixel_is_the_center_of_the_square_equally_often() -> None:
    """Check that the probability of erasing a pixel is the fraction of centers whose square covers the pixel."""
    rows, columns = (
        torch.tensor([sum(abs(pixel - center) <= SIDE // 2 for center in range(size)) / size for pixel in range(size)])
        for size in (HEIGHT, WIDTH)
    )
    expected = rows[:, None] * columns[None]
    torch.testing.assert_close(erased().float().mean(0), expected, atol=0.04, rtol=0)
