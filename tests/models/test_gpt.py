import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.models.gpt import GPT

CONF = Path(__file__).parents[2] / "conf" / "model"


def layer_like(block: nn.Module) -> nn.TransformerEncoderLayer:
    """Return torch's encoder layer with the weights of a block; with a causal mask, it equals the block."""
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


def test_the_loss_of_an_untrained_gpt_equals_the_loss_of_a_uniform_distribution() -> None:
    model = GPT(65, 64, 65)
    tokens, targets = torch.randint(0, 65, (2, 16, 64))
    loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(math.log(65), abs=0.1)


@pytest.mark.parametrize("bias", [True, False])
def test_a_gpt_has_the_expected_number_of_parameters(bias: bool) -> None:
    model = GPT(65, 64, 65, hidden_size=128, num_layers=4, bias=bias)
    block = 12 * 128**2 + 2 * 128 + bias * (2 * 128 + 3 * 128 + 128 + 4 * 128 + 128)
    assert sum(p.numel() for p in model.parameters()) == 65 * 128 + 64 * 128 + 4 * block + 128 + bias * 128


def test_output_layers_of_residual_branches_have_smaller_initial_weights() -> None:
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


@pytest.mark.parametrize(("name", "parameters"), [("gpt2", 124_439_808), ("gpt2_medium", 354_823_168)])
def test_gpt2_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    node = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    sizes = {key: node[key] for key in ("hidden_size", "num_layers", "num_heads", "activation", "bias")}
    with torch.device("meta"):
        model = GPT(50_257, 1024, 50_257, **sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_a_gpt_with_weights_from_transformers_has_the_same_logits(prefix: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=50, n_positions=20, n_embd=24, n_layer=3, n_head=4)
    torch.manual_seed(0)
    reference = transformers.GPT2LMHeadModel(config).eval()
    for parameter in reference.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    model = GPT(50, 12, 50, 24, 3, 4, activation="gelu_tanh").eval()
    state = reference.state_dict() if prefix else reference.transformer.state_dict()
    model.load_state_dict(model.adapt_weights(state))
    tokens = torch.randint(0, 50, (3, 12))
    torch.testing.assert_close(model(tokens), reference(tokens).logits, atol=1e-5, rtol=0)


def test_weights_of_gpt2_are_transposed_and_renamed_and_extra_positions_are_dropped() -> None:
    model = GPT(7, 4, 7, 8, 1, 2)
    there = {"transformer.wte.weight": model.embedding.weight, "transformer.wpe.weight": torch.randn(9, 8)}
    names = {"ln_1": "norm1", "ln_2": "norm2", "attn.c_attn": "qkv", "attn.c_proj": "mix"}
    names |= {"mlp.c_fc": "up", "mlp.c_proj": "down"}
    for name, own in names.items():
        for kind, value in model.blocks[0].get_submodule(own).state_dict().items():
            there[f"transformer.h.0.{name}.{kind}"] = value.T if value.dim() == 2 else value
    there |= {f"transformer.ln_f.{kind}": value for kind, value in model.norm.state_dict().items()}
    there |= {"lm_head.weight": model.embedding.weight, "transformer.h.0.attn.bias": torch.ones(1, 1, 9, 9)}
    expected = model.state_dict() | {"positions.weight": there["transformer.wpe.weight"][:4]}
    found = model.adapt_weights(there)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
