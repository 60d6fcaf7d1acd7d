from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.models.blocks import Block
from dltrain.models.transformer import Transformer


def reference(block: Block, width: int, heads: int, activation: str) -> nn.TransformerEncoderLayer:
    """Return torch's encoder layer with the weights of a block."""
    layer = nn.TransformerEncoderLayer(
        width, heads, block.up.out_features, 0.0, activation, batch_first=True, norm_first=True
    )
    ours = block.state_dict()
    names = {"qkv.": "self_attn.in_proj_", "mix.": "self_attn.out_proj.", "up.": "linear1.", "down.": "linear2."}
    for old, new in names.items():
        ours = {key.replace(old, new) if key.startswith(old) else key: value for key, value in ours.items()}
    layer.load_state_dict(ours)
    return layer


def through(model: Transformer, x: Tensor, mask: Tensor | None, activation: str) -> Tensor:
    y = model.widen(x) + model.positions.weight[: x.shape[1]]
    for block in model.blocks:
        y = reference(block, 32, 4, activation)(y, src_mask=mask)
    return nn.functional.layer_norm(y, (32,), model.norm.weight, model.norm.bias)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_transformer_equals_the_torch_encoder_with_the_same_weights(causal: bool, activation: str) -> None:
    model = Transformer(3, 12, 5, hidden_size=32, each_step=True, causal=causal, activation=activation)
    x = torch.randn(4, 9, 3)
    mask = nn.Transformer.generate_square_subsequent_mask(9) if causal else None
    expected = model.head(through(model, x, mask, activation))
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_the_output_for_a_whole_sequence_is_computed_from_the_last_step() -> None:
    model = Transformer(3, 12, 5, hidden_size=32)
    x = torch.randn(4, 12, 3)
    steps = through(model, x, None, "gelu")
    torch.testing.assert_close(model(x), model.head(steps[:, -1]), atol=1e-5, rtol=1e-5)


def test_a_transformer_depends_on_the_order_of_steps() -> None:
    model = Transformer(3, 12, 5)
    x = torch.randn(4, 12, 3)
    order = [3, 1, 2, 0, *range(4, 12)]
    assert not torch.allclose(model(x), model(x[:, order]), atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden_size": 30}, r"model\.num_heads: expected a divisor of model\.hidden_size, which is 30, got 4"),
        ({"num_heads": 0}, r"model\.num_heads"),
        ({"hidden_size": -4}, r"model\.hidden_size"),
        ({"num_layers": 0}, r"model\.num_layers"),
        ({"ffn_ratio": 0}, r"model\.ffn_ratio"),
        ({"length": 0}, r"model\.length"),
        ({"activation": "gleu"}, r"model\.activation.*Did you mean gelu\?"),
        ({"dropout": 1}, r"model\.dropout"),
    ],
)
def test_the_error_for_a_wrong_argument_of_a_transformer_names_its_key(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Transformer(**{"features": 3, "length": 12, "outputs": 5, **wrong})
