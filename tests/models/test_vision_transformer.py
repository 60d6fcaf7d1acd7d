"""Vision Transformer: published sizes, outputs, patches, attention maps, and position embeddings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from dltrain.errors import ConfigError
from dltrain.models.vision_transformer import POOLS, POSITIONS, VARIANTS, ViT
from dltrain.runs.initial_weights import load
from dltrain.runs.weight_files import read_weights


def test_the_base_variant_has_the_weight_names_and_shapes_of_torchvision() -> None:
    with torch.device("meta"):
        model, reference = ViT(3, 224, 224, 1000, "base"), torchvision.models.vit_b_16()
    shapes, expected = ({n: v.shape for n, v in m.state_dict().items()} for m in (model, reference))
    assert shapes == expected


@pytest.mark.parametrize(("variant", "published"), [("tiny", 5_717_416), ("small", 22_050_664), ("base", 86_567_656)])
def test_variants_have_the_published_number_of_parameters_and_mean_pooling_needs_no_class_token(
    variant: str, published: int
) -> None:
    with torch.device("meta"):
        token, mean = (ViT(3, 224, 224, 1000, variant, pool=pool) for pool in POOLS)
    assert sum(p.numel() for p in token.parameters()) == published
    assert sum(p.numel() for p in mean.parameters()) == published - 2 * VARIANTS[variant]  # the token and its position


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_those_of_torchvision_with_its_state_dict(variant: str) -> None:
    torch.manual_seed(0)
    width, heads = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}[variant]
    reference = VisionTransformer(32, 8, 2, heads, width, 4 * width, num_classes=5).eval()
    nn.init.normal_(reference.heads.head.weight)
    model = ViT(3, 32, 32, 5, variant, patch_size=8, num_layers=2).eval()
    model.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), reference(x))


@pytest.mark.parametrize(("side", "patch"), [(224, 16), (384, 16), (64, 8), (32, 4), (28, 4), (8, 1), (6, 1), (37, 1)])
def test_the_default_patch_size_is_1_or_the_largest_divisor_up_to_16_with_at_least_7_patches_per_side(
    side: int, patch: int
) -> None:
    assert ViT(1, side, side, 2, num_layers=1).grid == (side // patch, side // patch)


def test_a_patch_size_that_does_not_divide_the_image_is_rejected() -> None:
    message = "model.patch_size: expected a divisor of 24 and 32, the height and width of the images in pixels, got 16"
    with pytest.raises(ConfigError, match=message):
        ViT(3, 24, 32, 5, patch_size=16)


def test_a_number_of_heads_that_does_not_divide_the_number_of_features_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"model\.num_heads: expected a divisor of 48, the number of features, got 5"):
        ViT(1, 8, 8, 2, hidden_size=48, num_heads=5)


def test_mean_pooling_averages_the_normalized_states_of_all_patches() -> None:
    model = ViT(1, 8, 8, 3, patch_size=4, num_layers=1, hidden_size=8, pool="mean").double().eval()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    patches = F.unfold(x, 4, stride=4).transpose(1, 2)  # (B, patches, pixels)
    states = F.linear(patches, model.conv_proj.weight.flatten(1), model.conv_proj.bias)
    torch.testing.assert_close(model(x), model.heads(model.encoder(states).mean(1)))


@pytest.mark.parametrize("pool", POOLS)
def test_the_attention_map_is_the_attention_rollout_over_all_layers(pool: str) -> None:
    torch.manual_seed(0)
    model = ViT(1, 8, 12, 3, patch_size=4, num_layers=3, hidden_size=12, num_heads=2, pool=pool).double().eval()
    for name, parameter in model.named_parameters():
        if "in_proj" in name:
            nn.init.normal_(parameter)  # so that attention is far from uniform
    x = torch.randn(2, 1, 8, 12, dtype=torch.float64)
    states = model.conv_proj(x).flatten(2).transpose(1, 2)
    if pool == "class_token":
        states = torch.cat([model.class_token.expand(2, -1, -1), states], 1)
    states, product = states + model.encoder.pos_embedding, torch.eye(states.shape[1], dtype=torch.float64)
    for layer in model.encoder.layers:
        normal, attention = layer.ln_1(states), layer.self_attention
        rows = F.linear(normal, attention.in_proj_weight, attention.in_proj_bias).unflatten(2, (3, 2, 6))
        scores = torch.einsum("bqhd,bkhd->bhqk", rows[:, :, 0], rows[:, :, 1]) / 6**0.5
        torch.testing.assert_close(scores.softmax(-1).mean(1), attention(normal, normal, normal)[1])
        product = (0.5 * scores.softmax(-1).mean(1) + 0.5 * torch.eye(len(product[-1]), dtype=torch.float64)) @ product
        states = layer(states)
    expected = (product[:, 0, 1:] if pool == "class_token" else product.mean(1)).view(2, 2, 3)
    outputs = model(x)
    with torch.inference_mode():
        torch.testing.assert_close(model.attention_map(x), expected)
    torch.testing.assert_close(model.attention_map(x), expected)
    assert torch.equal(model(x), outputs) and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_images_need_not_be_square() -> None:
    model = ViT(1, 16, 20, 5, num_layers=1)
    assert (model.grid, model(torch.randn(2, 1, 16, 20)).shape) == ((8, 10), (2, 5))


def test_loading_interpolates_positions_for_another_image_size_and_copies_other_weights(tmp_path: Path) -> None:
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


def test_a_model_without_class_token_loads_only_the_positions_of_the_patches() -> None:
    token = ViT(3, 32, 32, 5, patch_size=8, num_layers=1, hidden_size=8)
    for side in (32, 48):
        mean = ViT(3, side, side, 5, patch_size=8, num_layers=1, hidden_size=8, pool="mean")
        found = mean.adapt_weights(token.state_dict())[POSITIONS]
        expected = interpolate_embeddings(side, 8, {POSITIONS: token.encoder.pos_embedding.data})[POSITIONS]
        torch.testing.assert_close(found, expected[:, 1:])
