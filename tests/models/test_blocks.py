"""The transformer block and its attention, compared with torch.nn and with written-out formulas."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.models.attention import CrossAttention, make_heads, padding_mask, rotate
from dltrain.models.blocks import Block, state_norm
from dltrain.models.documents import same_document
from dltrain.models.positions import NoPositions, RelativePositions, Sinusoids, embed_positions

WIDTH, HEADS = 16, 4
LENGTHS = torch.tensor([5, 1, 7, 3])
VARIANTS: list[dict[str, Any]] = [
    {},
    {"pre_norm": False, "activation_name": "relu"},
    {"norm": "rms", "gated": True, "activation_name": "silu", "rotary": True, "num_kv_heads": 2, "bias": False},
    {"num_kv_heads": 1, "head_size": 6, "scale": 1.0},
]


def build(**options: Any) -> Block:
    torch.manual_seed(0)
    block = Block(WIDTH, HEADS, 40, **options).double().eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)  # large enough that an error in one branch changes the output
    return block


def steps(number: int = 7, batch_size: int = 4) -> Tensor:
    return torch.randn(batch_size, number, WIDTH, generator=torch.Generator().manual_seed(1)).double()


def torch_layer(block: Block, kind: Any) -> nn.Module:
    """Return torch's encoder or decoder layer with the weights of a block."""
    activation = "relu" if isinstance(block.activation, nn.ReLU) else "gelu"
    layer = kind(WIDTH, HEADS, 40, 0.0, activation, batch_first=True, norm_first=block.pre_norm).double().eval()
    ours = block.state_dict()
    names = {"qkv.": "self_attn.in_proj_", "mix.": "self_attn.out_proj.", "up.": "linear1.", "down.": "linear2."}
    if block.cross is not None:
        names |= {"norm2.": "norm3.", "norm_cross.": "norm2.", "cross.mix.": "multihead_attn.out_proj."}
        for part in ("weight", "bias"):
            joined = [ours.pop(f"cross.query.{part}"), ours.pop(f"cross.kv.{part}")]
            ours[f"multihead_attn.in_proj_{part}"] = torch.cat(joined)
    for key in list(ours):
        old = next((old for old in names if key.startswith(old)), None)
        if old is not None:
            ours[f"new {key.replace(old, names[old], 1)}"] = ours.pop(key)
    layer.load_state_dict({key.removeprefix("new "): value for key, value in ours.items()})
    return layer


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("pre_norm", "name"), [(True, "gelu"), (False, "relu")])
def test_a_block_equals_the_encoder_layer_of_torch(pre_norm: bool, name: str, causal: bool) -> None:
    block, x = build(pre_norm=pre_norm, activation_name=name, causal=causal), steps()
    layer = torch_layer(block, nn.TransformerEncoderLayer)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64) if causal else None
    torch.testing.assert_close(block(x), layer(x, src_mask=mask))
    padding = torch.arange(7) >= LENGTHS[:, None]
    expected = layer(x, mask if mask is None else mask < 0, src_key_padding_mask=padding)
    found = block(x, padding_mask(LENGTHS, 7, x.device))
    torch.testing.assert_close(found[~padding], expected[~padding])


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_block_with_cross_attention_equals_the_decoder_layer_of_torch(pre_norm: bool) -> None:
    block, memory = build(pre_norm=pre_norm, causal=True, cross=True), steps(7) + 1
    layer = torch_layer(block, nn.TransformerDecoderLayer)
    x, mask = steps(5), nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    padding = torch.arange(7) >= LENGTHS[:, None]
    expected = layer(x, memory, mask, memory_key_padding_mask=padding)
    source_mask = padding_mask(LENGTHS, 7, x.device)
    assert block.cross is not None
    found = block(x, source=block.cross.read(memory), source_mask=source_mask)
    torch.testing.assert_close(found, expected)


def test_cross_attention_equals_multihead_attention_of_torch() -> None:
    torch.manual_seed(0)
    ours = CrossAttention(WIDTH, make_heads(WIDTH, HEADS)).double()
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    state = {"in_proj_weight": torch.cat([ours.query.weight, ours.kv.weight]), "out_proj.weight": ours.mix.weight}
    state |= {"in_proj_bias": torch.cat([ours.query.bias, ours.kv.bias]), "out_proj.bias": ours.mix.bias}
    theirs.load_state_dict(state)
    x, memory = steps(5), steps(7) + 1
    expected, _ = theirs(x, memory, memory, key_padding_mask=torch.arange(7) >= LENGTHS[:, None])
    torch.testing.assert_close(ours(x, ours.read(memory), padding_mask(LENGTHS, 7, x.device)), expected)


def by_hand(block: Block, x: Tensor) -> Tensor:
    """Compute the output of a pre-norm block for one sequence (T, width), head by head and query by query."""

    def norm(layer: Any, x: Tensor) -> Tensor:
        if isinstance(layer, nn.LayerNorm):
            x = x - x.mean(-1, keepdim=True)
        scale = (x.square().mean(-1, keepdim=True) + layer.eps).rsqrt()
        return x * scale * layer.weight + (0 if getattr(layer, "bias", None) is None else layer.bias)

    def turned(row: Tensor, position: int) -> Tensor:
        if not block.rotary:
            return row
        half = len(row) // 2
        pairs = torch.complex(row[:half], row[half:])
        angles = torch.tensor([position / 10_000 ** (2 * i / len(row)) for i in range(half)]).double()
        turned = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([turned.real, turned.imag])

    heads, size, number = HEADS, block.heads.size, block.heads.num_kv_heads
    q, k, v = block.qkv(norm(block.norm1, x)).split([heads * size, number * size, number * size], -1)
    outputs = torch.zeros(len(x), heads * size).double()
    for step, head in itertools.product(range(len(x)), range(heads)):
        own, other = slice(head * size, (head + 1) * size), (head * number // heads) * size
        query = turned(q[step, own], step)
        last = step if block.causal else len(x) - 1
        keys = [turned(k[at, other : other + size], at) for at in range(last + 1)]
        scores = torch.stack([query @ key for key in keys]) * (block.heads.scale or size**-0.5)
        outputs[step, own] = scores.softmax(0) @ v[: last + 1, other : other + size]
    x = x + block.mix(outputs)
    y = norm(block.norm2, x)
    hidden = block.activation(block.up(y))
    return x + block.down(hidden if block.gate is None else hidden * block.gate(y))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("options", [v for v in VARIANTS if v.get("pre_norm", True)], ids=str)
@torch.no_grad()
def test_a_block_equals_its_formula_written_out_in_float64(options: dict[str, Any], causal: bool) -> None:
    block, x = build(causal=causal, **options), steps(5, 2)
    expected = torch.stack([by_hand(block, row) for row in x])
    torch.testing.assert_close(block(x), expected, atol=1e-5 if block.rotary else 1e-9, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_shared_key_and_value_heads_equal_repeated_heads(masked: bool) -> None:
    x, mask = steps(), padding_mask(LENGTHS, 7, torch.device("cpu")) if masked else None
    shared, full = build(num_kv_heads=2), build()
    state = shared.state_dict()
    for part in ("weight", "bias"):
        q, k, v = state[f"qkv.{part}"].split([16, 8, 8])
        k, v = (each.unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1) for each in (k, v))
        state[f"qkv.{part}"] = torch.cat([q, k, v])
    full.load_state_dict(state)
    torch.testing.assert_close(shared(x, mask), full(x, mask))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_padding_changes_no_output(options: dict[str, Any]) -> None:
    block, x = build(**options), steps()
    changed = torch.cat([torch.where((torch.arange(7) < LENGTHS[:, None])[:, :, None], x, 9.0), x[:, :2]], dim=1)
    found = block(changed, padding_mask(LENGTHS, 9, x.device))
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(found[row, :length], block(x[row : row + 1, :length])[0])


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_later_step_changes_no_earlier_output_of_causal_attention(options: dict[str, Any]) -> None:
    block, x = build(causal=True, **options), steps()
    changed = x.clone()
    changed[:, 4, 0] += 1  # a layer norm would hide an equal change of all features
    difference = (block(changed) - block(x)).abs().amax((0, 2))
    assert difference[:4].max() == 0 and difference[4:].min() > 0


@pytest.mark.parametrize("sizes", [[1] * 7, [3, 1, 3]], ids=str)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_outputs_computed_with_a_cache_equal_the_outputs_of_one_pass(options: dict[str, Any], sizes: list[int]) -> None:
    block, x, outputs = build(causal=True, cross=True, **options), steps(), []
    assert block.cross is not None
    source, cache = block.cross.read(steps(3) + 1), block.empty_cache(4)
    for piece in x.split(sizes, dim=1):
        output, cache = block.extend(piece, cache, source=source)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), block(x, source=source), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_steps_attend_only_to_steps_of_their_own_document(causal: bool) -> None:
    block, x = build(causal=causal), steps(7, 1)
    found = block(x, same_document(torch.tensor([[0, 0, 0, 1, 1, 2, 2]])))
    alone = torch.cat([block(piece) for piece in x.split([3, 2, 2], dim=1)], dim=1)
    torch.testing.assert_close(found, alone)


def test_causal_attention_can_be_combined_with_an_attention_bias() -> None:
    block, x = build(causal=True), steps()
    bias = torch.randn(1, HEADS, 7, 7, generator=torch.Generator().manual_seed(2)).double()
    later = torch.ones(7, 7).triu(1).bool()
    expected = build()(x, bias.masked_fill(later, -torch.inf))
    torch.testing.assert_close(block(x, bias), expected)


def test_the_product_of_rotated_queries_and_keys_depends_only_on_their_distance() -> None:
    query, key = steps(1).unflatten(2, (HEADS, 4)).transpose(1, 2), steps(1).unflatten(2, (HEADS, 4)).transpose(1, 2)
    near, far = ((rotate(query, start) * rotate(key, start + 3)).sum(-1) for start in (2, 50))
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(near, (rotate(query, 2) * rotate(key, 4)).sum(-1), atol=1e-3)


def test_rms_norm_equals_its_formula() -> None:
    norm, x = state_norm("rms", WIDTH, 1e-6).double(), steps()
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), expected)
    assert [name for name, _ in norm.named_parameters()] == ["weight"]


def test_sinusoids_equal_the_formula_of_the_paper() -> None:
    positions = Sinusoids(40, 6)
    found = positions(torch.zeros(1, 20, 6), start=30)[0]
    for position, i in itertools.product(range(20), range(3)):
        angle = (30 + position) / 10_000 ** (2 * i / 6)
        assert found[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
        assert found[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert not positions.state_dict()


def t5_bucket(distance: int, bidirectional: bool, number: int, longest: int) -> int:
    """Return the bucket of a key at `distance` from the query, by the rule of T5."""
    first = 0
    if bidirectional:
        number //= 2
        first, distance = (number if distance > 0 else 0), abs(distance)
    else:
        distance = max(-distance, 0)
    exact = number // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(longest / exact)
    return first + min(exact + int(share * (number - exact)), number - 1)


@pytest.mark.parametrize(("number", "longest"), [(32, 128), (8, 20)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_position_buckets_follow_the_rule_of_t5(bidirectional: bool, number: int, longest: int) -> None:
    positions = RelativePositions(HEADS, number, longest, bidirectional)
    # The buckets of the excluded distances depend on rounding.
    distances = [d for d in range(-200, 201) if abs(d) not in (16, 32, 64)]
    found = positions.buckets(torch.tensor(distances)).tolist()
    assert found == [t5_bucket(distance, bidirectional, number, longest) for distance in distances]
    nn.init.normal_(positions.weight)
    scores = positions(3, 5)
    assert scores.shape == (1, HEADS, 3, 5)
    bucket = t5_bucket(4 - 2, bidirectional, number, longest)
    assert torch.equal(scores[0, :, 0, 4], positions.weight[bucket])


def test_no_positions_are_added_for_blocks_with_rotary_positions() -> None:
    assert isinstance(embed_positions("rotary", 8, WIDTH), NoPositions)
    assert torch.equal(NoPositions()(steps(), 3), steps())


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_attention_in_training_mode_uses_dropout(options: dict[str, Any]) -> None:
    block, x = build(dropout=0.5, **options), steps()
    assert torch.equal(block(x), block(x))
    block.train()
    block.drop.p = 0.0
    assert not torch.equal(block(x), block(x)), "dropout also applies to the attention weights"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_kv_heads": 3}, r"model\.num_kv_heads: expected a divisor of model\.num_heads, which is 4, got 3"),
        ({"num_kv_heads": 0}, r"model\.num_kv_heads"),
        ({"norm": "rsm"}, r"model\.norm: .*Did you mean rms\?"),
        ({"rotary": True, "head_size": 5}, r"model\.num_heads: expected a divisor of 16 with an even number"),
    ],
)
def test_invalid_options_of_a_block_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Block(WIDTH, HEADS, 40, **options)
