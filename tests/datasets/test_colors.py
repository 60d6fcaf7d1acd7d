"""Color changes and RandAugment, compared with the functions of torchvision on the same images."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from dltrain.datasets.augmentation import Augmentation
from dltrain.datasets.changes import make_changes
from dltrain.datasets.colors import ENHANCERS, Unit
from dltrain.datasets.geometry import Frame
from dltrain.datasets.rand_augment import MOVES, OPERATIONS, RandAugment
from dltrain.datasets.shapes import Shapes
from dltrain.keyed_random import mix

HEIGHT, WIDTH, COUNT = 24, 32, 6
STRENGTH = 9 / 30
MEAN, STD = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.25, 0.3])[:, None, None]
ENHANCE = {
    "brightness": reference.adjust_brightness,
    "contrast": reference.adjust_contrast,
    "saturation": reference.adjust_saturation,
    "sharpness": reference.adjust_sharpness,
}


def images(channels: int = 3, count: int = COUNT) -> Tensor:
    """Return smooth 8-bit images scaled to [0, 1]; each image has a different range."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 5, 6, generator=draw) * torch.linspace(0.4, 1, count)[:, None, None, None]
    smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")
    return (smooth * 255).round() / 255


def normalized(x: Tensor) -> Tensor:
    return (x - MEAN[: x.shape[1]]) / STD[: x.shape[1]]


def rand_augment(masks: bool = False) -> RandAugment:
    frame = Frame({"inputs": torch.zeros(3, 1, 1)}, {"targets": -1} if masks else {})
    return RandAugment(2, 9.0, Unit(MEAN, STD), frame)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_brightness_contrast_and_saturation_match_torchvision(name: str, channels: int) -> None:
    x, factors = images(channels), torch.linspace(0.3, 1.7, COUNT)
    found = ENHANCERS[name](x, factors[:, None, None, None])
    expected = torch.stack([ENHANCE[name](image, float(factor)) for image, factor in zip(x, factors, strict=True)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def of_torchvision(name: str, image: Tensor, sign: float) -> Tensor:
    """Apply torchvision's version of a RandAugment operation at magnitude 9 of 30."""
    move = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    slant, turn = math.degrees(math.atan(0.3 * STRENGTH * sign)), 30 * STRENGTH * sign
    moves = {
        "shear_x": {"shear": [slant, 0.0]},
        "shear_y": {"shear": [0.0, slant]},
        "translate_x": {"translate": [int(150 / 331 * WIDTH * STRENGTH * sign), 0]},
        "translate_y": {"translate": [0, int(150 / 331 * HEIGHT * STRENGTH * sign)]},
    }
    if name in moves:
        return reference.affine(image, **move | moves[name], interpolation=InterpolationMode.BILINEAR, fill=0)
    if name == "rotate":
        return reference.rotate(image, turn, interpolation=InterpolationMode.BILINEAR, fill=0)
    if name in ENHANCE:
        return ENHANCE[name](image, 1 + 0.9 * STRENGTH * sign)
    others: dict[str, Callable[[Tensor], Tensor]] = {
        "identity": lambda x: x,
        "posterize": lambda x: reference.posterize(x, 8 - round(4 * STRENGTH)),
        "solarize": lambda x: reference.solarize(x, 1 - STRENGTH),
        "autocontrast": reference.autocontrast,
        "equalize": reference.equalize,
    }
    return others[name](image)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_randaugment_operation_matches_torchvision(name: str, sign: float) -> None:
    x, number = images(), OPERATIONS.index(name)
    found = rand_augment().operate({"inputs": normalized(x)}, torch.full((COUNT,), number), torch.full((COUNT,), sign))[
        "inputs"
    ]
    expected = torch.stack([of_torchvision(name, image, sign) for image in x])
    error = (found - normalized(expected)).abs()
    if name in MOVES:  # near the edges, torchvision interpolates differently
        error = error[:, :, 8:-8, 8:-8]
    assert error.max() < 1e-4
    assert name == "identity" or not torch.equal(expected, x)


def test_the_operations_of_an_example_depend_on_its_key_and_not_on_its_batch() -> None:
    x, keys = normalized(images(count=40)), mix(torch.arange(40))
    module = rand_augment()
    whole = module({"inputs": x}, keys)["inputs"]
    for start in (0, 13):
        torch.testing.assert_close(module({"inputs": x[start:20]}, keys[start:20])["inputs"], whole[start:20])
    assert torch.equal(module({"inputs": x}, keys)["inputs"], whole)
    same = (whole - x).flatten(1).abs().amax(1) < 1e-5
    assert 0 <= same.sum() < 10  # few examples draw the identity twice


def test_every_operation_is_drawn_about_equally_often() -> None:
    module, seen = rand_augment(), list[Tensor]()
    module.operate = lambda batch, operation, sign: seen.append(operation) or batch  # type: ignore[method-assign, func-returns-value]
    module({"inputs": normalized(images(count=1))}, mix(torch.arange(7000)))
    counts = torch.cat(seen).bincount(minlength=len(OPERATIONS))
    assert len(counts) == 14 and (counts - 1000).abs().max() < 150
    assert (seen[0] == seen[1]).float().mean() < 0.1


def test_geometric_operations_move_masks_with_their_images_and_other_operations_keep_masks() -> None:
    blocks = (torch.arange(HEIGHT)[:, None] // 8 * 4 + torch.arange(WIDTH) // 8).expand(len(OPERATIONS), -1, -1)
    pictures = (blocks / 11.0)[:, None].expand(-1, 3, -1, -1)
    operation = torch.arange(len(OPERATIONS))
    batch = {"inputs": normalized(pictures), "targets": blocks.clone()}
    found = rand_augment(masks=True).operate(batch, operation, torch.ones(len(OPERATIONS)))
    for number, name in enumerate(OPERATIONS):
        if name not in MOVES:
            assert torch.equal(found["targets"][number], blocks[number])
            continue
        known = found["targets"][number] >= 0
        shown = (found["inputs"][number] * STD + MEAN)[0] * 11
        near = (shown - found["targets"][number]).abs()[known] < 0.51
        assert not known.all()
        assert near.float().mean() > 0.9, name
        assert not torch.equal(found["targets"][number], blocks[number])


def test_brightness_multiplies_all_channels_by_one_factor_within_the_configured_range() -> None:
    augmentation = Augmentation(brightness=0.3)
    module = make_changes(augmentation, Frame({"inputs": torch.zeros(3, 1, 1)}), Unit(MEAN, STD))
    assert module is not None
    x = torch.full((500, 3, 2, 2), 0.5)
    found = module({"inputs": normalized(x)}, mix(torch.arange(500)))["inputs"] * STD + MEAN
    factors = found[:, 0, 0, 0] / 0.5
    torch.testing.assert_close(found, (0.5 * factors)[:, None, None, None].expand_as(found))
    assert 0.7 <= factors.min() < 0.72 and 1.28 < factors.max() <= 1.3


def test_make_changes_returns_none_if_no_change_is_enabled() -> None:
    assert make_changes(Augmentation(), Frame({"inputs": torch.zeros(3, 1, 1)}), Unit(MEAN, STD)) is None


def test_color_changes_and_randaugment_yield_valid_masks_for_the_shapes_data() -> None:
    source = Shapes(augment={"brightness": 0.4, "contrast": 0.4, "randaugment": 2}).load().train
    batch = source.prepare({name: value[:50] for name, value in source.rows.items()})
    assert source.augment is not None
    changed = source.augment(batch, mix(torch.arange(50)))
    assert set(changed["targets"].unique().tolist()) <= {-1, 0, 1, 2, 3} and changed["inputs"].isfinite().all()
    assert not torch.equal(changed["inputs"], batch["inputs"])


def test_no_value_is_read_back_from_the_device() -> None:
    """Use the meta device, where reading a value raises an error."""
    augmentation = Augmentation(brightness=0.2, contrast=0.2, saturation=0.2, randaugment=2)
    frame = Frame({"inputs": torch.zeros(3, 1, 1)}, {"targets": -1}, ("boxes",))
    module = make_changes(augmentation, frame, Unit(MEAN, STD))
    assert module is not None
    shapes = {"inputs": (5, 3, HEIGHT, WIDTH), "targets": (5, HEIGHT, WIDTH), "boxes": (5, 2, 4)}
    batch = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    found = module.to("meta")(batch, torch.empty(5, dtype=torch.int64, device="meta"))
    assert {name: tuple(value.shape) for name, value in found.items()} == shapes
