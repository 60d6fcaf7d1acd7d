"""Vision Transformer: published sizes, torchvision's outputs, patches, positions of images of another size."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from dltrain.errors import ConfigError
from dltrain.models.vision_transformer import POSITIONS, VARIANTS, ViT
from dltrain.runs.initial_weights import load
from dltrain.runs.weight_files import read_weights


def test_the_base_variant_has_the_weights_of_torchvision() -> None:
    with torch.device("meta"):
        model, reference = ViT(3, 224, 224, 1000, "base"), torchvision.models.vit_b_16()
    assert sum(p.numel() for p in model.parameters()) == 86_567_656
    shapes, expected = ({n: v.shape for n, v in m.state_dict().items()} for m in (model, reference))
    assert shapes == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_those_of_torchvision_with_its_state_dict(variant: str) -> None:
    torch.manual_seed(0)
    width, heads = VARIANTS[variant]
    reference = VisionTransformer(32, 8, 2, heads, width, 4 * width, num_classes=5).eval()
    nn.init.normal_(reference.heads.head.weight)
    model = ViT(3, 32, 32, 5, variant, patch_size=8, num_layers=2).eval()
    model.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), reference(x))


@pytest.mark.parametrize(("side", "patch"), [(224, 16), (384, 16), (64, 8), (32, 4), (28, 4), (8, 1), (6, 1), (37, 1)])
def test_default_patches_are_the_largest_up_to_16_pixels_with_at_least_seven_along_a_side(
    side: int, patch: int
) -> None:
    assert ViT(1, side, side, 2, num_layers=1).grid == (side // patch, side // patch)


def test_a_patch_size_that_does_not_divide_the_image_is_rejected() -> None:
    message = "model.patch_size: expected a divisor of 24 and 32, the height and width of the images in pixels, got 16"
    with pytest.raises(ConfigError, match=message):
        ViT(3, 24, 32, 5, patch_size=16)


def test_images_need_not_be_square() -> None:
    model = ViT(1, 16, 20, 5, num_layers=1)
    assert (model.grid, model(torch.randn(2, 1, 16, 20)).shape) == ((8, 10), (2, 5))


def test_positions_of_images_of_another_size_are_interpolated_and_other_weights_copied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small, large = (ViT(3, side, side, 5, patch_size=8, num_layers=1) for side in (32, 48))
    torch.save(small.state_dict(), tmp_path / "small.pt")

    def rebuild(facts: Mapping[str, Any]) -> nn.Module:
        return ViT(3, 48, 48, facts["outputs"], patch_size=8, num_layers=1)

    loaded = load(large, rebuild, {"outputs": 5}, {}, read_weights(str(tmp_path / "small.pt"), []))
    assert POSITIONS in loaded.names
    before, after = small.state_dict()[POSITIONS], large.state_dict()[POSITIONS]
    expected = interpolate_embeddings(48, 8, {POSITIONS: before})[POSITIONS]
    torch.testing.assert_close(after, expected)
    assert torch.equal(large.state_dict()["conv_proj.weight"], small.state_dict()["conv_proj.weight"])
