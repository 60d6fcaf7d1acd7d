import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.models.gpt import GPT


def layer_like(block: nn.Module) -> nn.TransformerEncoderLayer:
    """Return torch's encoder layer with the weights of a block. With a causal mask it equals a GPT-2 layer."""
    layer = nn.TransformerEncoderLayer(32, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True)
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(block.qkv.weight)
        layer.self_attn.in_proj_bias.copy_(block.qkv.bias)
    layer.self_attn.out_proj.load_state_dict(block.mix.state_dict())
    layer.linear1.load_state_dict(block.up.state_dict())
    layer.linear2.load_state_dict(block.down.state_dict())
    layer.norm1.load_state_dict(block.norm1.state_dict())
    layer.norm2.load_state_dict(block.norm2.state_dict())
    return layer


@pytest.mark.parametrize("steps", [1, 9, 16])
def test_a_gpt_equals_torch_layers_with_the_same_weights(steps: int) -> None:
    model = GPT(11, 16, 11, hidden_size=32, num_layers=3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # large enough that an error in one branch changes the output
    tokens = torch.randint(0, 11, (4, steps))
    x = model.embedding.weight[tokens] + model.positions.weight[:steps]
    mask = nn.Transformer.generate_square_subsequent_mask(steps)
    for block in model.blocks:
        x = layer_like(block)(x, src_mask=mask)
    x = F.layer_norm(x, (32,), model.norm.weight, model.norm.bias)
    torch.testing.assert_close(model(tokens), x @ model.embedding.weight.T, atol=1e-4, rtol=1e-4)


def test_the_loss_of_an_untrained_gpt_equals_that_of_a_uniform_distribution() -> None:
    model = GPT(65, 64, 65)
    tokens, targets = torch.randint(0, 65, (2, 16, 64))
    loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(math.log(65), abs=0.1)


@pytest.mark.parametrize("bias", [True, False])
def test_a_gpt_has_the_expected_number_of_parameters(bias: bool) -> None:
    model = GPT(65, 64, 65, hidden_size=128, num_layers=4, bias=bias)
    block = 12 * 128**2 + 2 * 128 + bias * (2 * 128 + 3 * 128 + 128 + 4 * 128 + 128)
    assert sum(p.numel() for p in model.parameters()) == 65 * 128 + 64 * 128 + 4 * block + 128 + bias * 128


def test_initial_residual_branches_are_smaller_in_deeper_networks() -> None:
    model = GPT(65, 64, 65, hidden_size=128, num_layers=8)
    for block in model.blocks:
        assert block.mix.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
        assert block.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
        assert block.up.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"outputs": 10}, r"model\.outputs: expected 65"),
        ({"hidden_size": 130}, r"model\.num_heads"),
        ({"num_layers": 0}, r"model\.num_layers"),
        ({"vocabulary": 0}, r"model\.vocabulary"),
        ({"dropout": 1.5}, r"model\.dropout"),
    ],
)
def test_the_error_for_a_wrong_argument_of_a_gpt_names_its_key(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GPT(**{"vocabulary": 65, "length": 64, "outputs": 65, **wrong})
