"""PatchTST, compared with the paper's formulas."""

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.models.patchtst import PatchTST

LENGTH, COLUMNS, HORIZON, PATCH, STRIDE, WIDTH = 21, 3, 4, 6, 4, 8


@pytest.fixture
def model() -> PatchTST:
    torch.manual_seed(0)
    sizes = {"patch_length": PATCH, "stride": STRIDE, "hidden_size": WIDTH, "num_layers": 1, "num_heads": 2}
    found = PatchTST(LENGTH, COLUMNS, HORIZON, HORIZON * COLUMNS * 2, **sizes)
    for parameter in found.parameters():
        nn.init.normal_(parameter, std=0.3)
    return found.eval()


def test_the_forecast_of_a_column_equals_the_formulas_of_the_paper(model: PatchTST) -> None:
    states: list[Tensor] = []
    model.blocks.register_forward_hook(lambda module, inputs, output: states.extend([inputs[0], output]))
    x = 5 + 3 * torch.randn(2, LENGTH, COLUMNS)
    found = model(x).view(2, HORIZON, COLUMNS, 2)
    tokens, encoded = (state.view(2, COLUMNS, -1, WIDTH) for state in states)
    for example in range(2):
        for column in range(COLUMNS):
            series = x[example, :, column]
            mean, deviation = series.mean(), series.std(correction=0)
            scaled = [*((series - mean) / deviation).tolist()]
            scaled += [scaled[-1]] * STRIDE
            patches = [scaled[at : at + PATCH] for at in range(0, len(scaled) - PATCH + 1, STRIDE)]
            expected = torch.tensor(patches) @ model.embed.weight.T + model.embed.bias + model.positions.weight
            torch.testing.assert_close(tokens[example, column], expected, atol=1e-4, rtol=1e-4)
            norm = nn.functional.layer_norm(encoded[example, column], (WIDTH,), model.norm.weight, model.norm.bias)
            levels = model.head.weight @ norm.flatten() + model.head.bias
            expected = levels.view(HORIZON, 2) * deviation + mean
            torch.testing.assert_close(found[example, :, column], expected, atol=1e-3, rtol=1e-4)


def test_blocks_with_batch_norm_equal_the_blocks_of_the_paper() -> None:
    torch.manual_seed(0)
    sizes = {"patch_length": PATCH, "stride": STRIDE, "hidden_size": WIDTH, "num_layers": 2, "num_heads": 2}
    model, seen = PatchTST(LENGTH, COLUMNS, HORIZON, HORIZON * COLUMNS, norm="batch", **sizes), list[Tensor]()
    model.blocks.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    model.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.randn(5, LENGTH, COLUMNS))
    x, encoded, flat = seen
    torch.testing.assert_close(flat, encoded.flatten(1))  # no norm between the last block and the head
    for block in model.blocks:
        attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        names = {"in_proj_": block.qkv, "out_proj.": block.mix}
        own = {f"{name}{kind}": getattr(layer, kind) for name, layer in names.items() for kind in ("weight", "bias")}
        attention.load_state_dict(own)
        for branch in (lambda x, a=attention: a(x, x, x)[0], lambda x, b=block: b.down(nn.functional.gelu(b.up(x)))):
            x = x + branch(x)
            mean, variance = x.mean((0, 1)), x.var((0, 1), correction=0)
            x = (x - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(encoded, x, atol=1e-4, rtol=1e-4)


def test_columns_do_not_influence_each_other_and_share_their_weights(model: PatchTST) -> None:
    x = torch.randn(2, LENGTH, COLUMNS)
    found = model(x).view(2, HORIZON, COLUMNS, 2)
    order = [2, 0, 1]
    torch.testing.assert_close(model(x[..., order]).view(2, HORIZON, COLUMNS, 2), found[:, :, order])
    changed = x.clone()
    changed[..., 1] += torch.randn(LENGTH)
    again = model(changed).view(2, HORIZON, COLUMNS, 2)
    assert torch.equal(again[:, :, [0, 2]], found[:, :, [0, 2]]) and not torch.equal(again[:, :, 1], found[:, :, 1])


def test_a_scaled_and_shifted_window_has_a_scaled_and_shifted_forecast(model: PatchTST) -> None:
    x = torch.randn(2, LENGTH, COLUMNS)
    torch.testing.assert_close(model(100 + 7 * x), 100 + 7 * model(x), atol=1e-2, rtol=1e-4)


def test_a_constant_window_has_a_finite_forecast_near_its_value(model: PatchTST) -> None:
    found = model(torch.full((1, LENGTH, COLUMNS), 3.0))
    assert (found - 3).abs().max() < 0.1


def test_a_patch_must_fit_into_the_window() -> None:
    with pytest.raises(ConfigError, match=r"^model\.patch_length: expected at most data\.window=12, got 16"):
        PatchTST(12, 1, 4, 4)
