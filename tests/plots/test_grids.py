"""Grids of images and filters: positions and values of pixels."""

import math

import pytest
import torch

from dltrain.plots import grids
from dltrain.plots.grids import GAP


def test_a_grid_contains_all_images_enlarged_and_on_the_same_brightness_scale():
    images = torch.rand(11, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0.5, 0.25
    sheet, times, side = grids.images(images, columns=4), 7, 56
    assert sheet.dtype == torch.uint8 and sheet.is_contiguous()
    assert sheet.shape == (3, 3 * (side + GAP) + GAP, 4 * (side + GAP) + GAP)
    for number, image in enumerate(images):
        y, x = (GAP + index * (side + GAP) for index in divmod(number, 4))
        expected = (255 * image).round().byte().repeat_interleave(times, 1).repeat_interleave(times, 2)
        assert torch.equal(sheet[:, y : y + side, x : x + side], expected.expand(3, -1, -1))
    assert bool((sheet[:, -side:, -side:] == 255).all())
    assert bool((sheet[:, :GAP] == 255).all() and (sheet[:, :, :GAP] == 255).all())


@pytest.mark.parametrize(("channels", "side", "tile"), [(3, 32, 64), (1, 28, 56), (2, 28, 56), (3, 200, 200)])
def test_rgb_images_are_shown_in_color_and_other_images_as_the_mean_of_their_channels(channels, side, tile):
    image = torch.rand(1, channels, side, side)
    sheet = grids.images(image)
    assert sheet.shape == (3, tile + 2 * GAP, tile + 2 * GAP)
    shown = sheet[:, GAP : -GAP or None : tile // side, GAP : -GAP or None : tile // side]
    expected = image[0] if channels == 3 else image[0].mean(0).expand(3, -1, -1)
    assert int((shown.int() - (255 * expected).round().int()).abs().max()) <= 1


def test_out_of_range_values_nan_and_empty_batches_can_be_drawn():
    sheet = grids.images(torch.tensor([-5.0, 2.0, math.nan, 1.0]).view(4, 1, 1, 1))
    assert sheet[0, 30, [30, 88, 146, 204]].tolist() == [0, 255, 0, 255]
    assert bool((grids.images(torch.zeros(0, 1, 8, 8)) == 255).all())


def test_each_filter_is_scaled_by_its_largest_absolute_value_and_zero_is_gray():
    weight = torch.zeros(2, 1, 3, 3)
    weight[:, 0, 0, 0] = torch.tensor([0.02, -5.0])
    gap, side = 3 * GAP, 57
    sheet = grids.filters(weight)[0, gap:, gap:]
    first, second = sheet[:side, :side], sheet[:side, side + gap : 2 * side + gap]
    assert (first[5, 5], second[5, 5], first[40, 40], second[40, 40]) == (255, 0, 128, 128)


def test_filters_are_colored_if_they_have_three_input_channels_and_averaged_otherwise():
    weight = torch.zeros(1, 3, 2, 2)
    weight[0, 1] = 1
    assert grids.filters(weight)[:, 30, 30].tolist() == [128, 255, 128]
    assert grids.filters(torch.cat([weight, weight], 1))[:, 30, 30].tolist() == [255, 255, 255]
    assert grids.filters(torch.randn(500, 4, 3, 3)).shape[1] == 8 * (57 + 3 * GAP) + 3 * GAP


def test_first_filters_come_from_the_first_convolution_larger_than_1x1():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 5, 3), torch.nn.Conv2d(5, 9, 3))
    assert torch.equal(grids.first_filters(model), grids.filters(model[1].weight))
    assert grids.first_filters(torch.nn.Linear(2, 2)) is None
