"""The Transformer for translation equals torch.nn.Transformer, does not read later tokens, and decodes with a cache."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.models.blocks import Block
from dltrain.models.encoder_decoder import EncoderDecoder
from dltrain.models.positions import Sinusoids
from dltrain.tasks.beam_search import BeamSearch

LENGTHS = torch.tensor([5, 1, 7, 3])
SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 4, "ffn_ratio": 2, "length": 16, "target_length": 16}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"pre_norm": True, "activation": "gelu", "positions": "learned", "tie_embeddings": False},
    {"norm": "rms", "gated": True, "activation": "silu", "positions": "rotary", "num_kv_heads": 2, "pre_norm": True},
    {"positions": "none", "num_kv_heads": 1},
]


def build(outputs: int = 9, **options: Any) -> EncoderDecoder:
    torch.manual_seed(0)
    model = EncoderDecoder(11, outputs, **{**SIZES, **options}).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # large enough that an error in one branch changes the output
    return model


def sources(pad: int = 0, width: int = 8) -> Tensor:
    tokens = torch.randint(1, 11, (4, width), generator=torch.Generator().manual_seed(1))
    return torch.where(torch.arange(width) < LENGTHS[:, None], tokens, pad)


def targets(steps: int = 6) -> Tensor:
    return torch.randint(0, 9, (4, steps), generator=torch.Generator().manual_seed(2))


def weights_for_torch(block: Block) -> dict[str, Tensor]:
    """Return the weights of a block under the names of torch's encoder or decoder layer."""
    names = {"qkv.": "self_attn.in_proj_", "mix.": "self_attn.out_proj.", "up.": "linear1.", "down.": "linear2."}
    names |= {"norm1.": "norm1.", "norm2.": "norm2." if block.cross is None else "norm3."}
    names |= {"norm_cross.": "norm2.", "cross.mix.": "multihead_attn.out_proj."}
    ours, found = block.state_dict(), {}
    for part in ("weight", "bias"):
        if block.cross is not None:
            joined = torch.cat([ours.pop(f"cross.query.{part}"), ours.pop(f"cross.kv.{part}")])
            found[f"multihead_attn.in_proj_{part}"] = joined
    for key, value in ours.items():
        old = next(old for old in names if key.startswith(old))
        found[names[old] + key.removeprefix(old)] = value
    return found


@pytest.mark.filterwarnings("ignore:.*nested")
@pytest.mark.parametrize("pre_norm", [False, True])
@torch.no_grad()
def test_the_model_equals_the_transformer_of_torch_with_the_same_weights(pre_norm: bool) -> None:
    model = build(pre_norm=pre_norm)
    theirs = nn.Transformer(16, 4, 2, 2, 32, 0.0, batch_first=True, norm_first=pre_norm).double().eval()
    for ours, stack in ((model.encoder, theirs.encoder), (model.decoder, theirs.decoder)):
        for block, layer in zip(ours, stack.layers, strict=True):
            layer.load_state_dict(weights_for_torch(block))
    if pre_norm:
        theirs.encoder.norm.load_state_dict(model.encoder_norm.state_dict())
        theirs.decoder.norm.load_state_dict(model.decoder_norm.state_dict())
    else:  # unlike the paper, torch adds a norm after the last layer of each stack
        theirs.encoder.norm = theirs.decoder.norm = None
    table, scale = Sinusoids(16, 16).double().weight, math.sqrt(16)
    x = model.source_embedding.weight[sources()] * scale + table[:8]
    y = model.target_embedding.weight[targets()] * scale + table[:6]
    padding = torch.arange(8) >= LENGTHS[:, None]
    causal = nn.Transformer.generate_square_subsequent_mask(6).isinf()
    expected = theirs(x, y, tgt_mask=causal, src_key_padding_mask=padding, memory_key_padding_mask=padding)
    found = model(sources(), targets(), LENGTHS)
    torch.testing.assert_close(found, expected @ model.target_embedding.weight.T, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@torch.no_grad()
def test_padding_and_other_rows_change_no_output(options: dict[str, Any]) -> None:
    model, previous = build(**options), targets()
    pairs = zip(sources().split(1), previous.split(1), LENGTHS.tolist(), strict=True)
    alone = torch.cat([model(source[:, :length], target) for source, target, length in pairs])
    for padded in (sources(), sources(pad=7), torch.cat([sources(), torch.full((4, 3), 5)], dim=1)):
        torch.testing.assert_close(model(padded, previous, LENGTHS), alone, atol=1e-7, rtol=1e-7)
    assert not torch.allclose(model(sources(), previous), alone, atol=1e-3)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@torch.no_grad()
def test_a_later_token_of_the_target_changes_no_earlier_output(options: dict[str, Any]) -> None:
    model, previous = build(**options), targets()
    changed = previous.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 9
    difference = (model(sources(), changed, LENGTHS) - model(sources(), previous, LENGTHS)).abs().amax((0, 2))
    assert difference[:3].max() == 0 and difference[3:].min() > 0


@pytest.mark.parametrize("sizes", [[1] * 6, [2, 1, 3]], ids=str)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
@torch.no_grad()
def test_decoding_with_a_cache_equals_decoding_in_one_pass(options: dict[str, Any], sizes: list[int]) -> None:
    model, outputs = build(**options), []
    state = model(sources(), lengths=LENGTHS)
    for piece in targets().split(sizes, dim=1):
        output, state = model(piece, state=state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), model(sources(), targets(), LENGTHS), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@torch.no_grad()
def test_cached_decoding_returns_the_tokens_of_decoding_without_a_cache(options: dict[str, Any]) -> None:
    model, written = build(**options), torch.full((4, 1), 2)
    for _ in range(12):
        logits = model(sources(), written, LENGTHS)[:, -1]
        logits[:, [0, 2, 3]] = -math.inf  # never the end token, so that all targets have the same length
        written = torch.cat([written, logits.argmax(-1, keepdim=True)], dim=1)
    found = BeamSearch(begin=2, end=3, excluded=(0, 2, 3), length=12)(model, model(sources(), lengths=LENGTHS))
    assert torch.equal(found.tokens, written[:, 1:])


def test_one_embedding_can_serve_source_and_target_and_output_if_they_share_the_vocabulary() -> None:
    shared, tied, untied = (
        build(11, shared_vocabulary=True),
        build(11),
        build(11, tie_embeddings=False, shared_vocabulary=True),
    )
    sizes = [sum(p.numel() for p in model.parameters()) for model in (shared, tied, untied)]
    assert [size - sizes[0] for size in sizes] == [0, 11 * 16, 2 * 11 * 16 + 11]
    shared(sources(), targets()).square().sum().backward()
    assert shared.target_embedding.weight.grad is not None


@torch.no_grad()
def test_learned_positions_limit_the_length_of_a_text_and_sinusoidal_positions_do_not() -> None:
    long = sources(width=40).repeat(1, 3)
    model = build()
    with torch.inference_mode():
        model(long, targets())
    assert model(long, targets()).shape == (4, 6, 9)
    with pytest.raises(ConfigError, match=r"model\.length: expected at least 120 \(the length of the input\), got 16"):
        build(positions="learned")(long, targets())


def test_initial_embeddings_have_variance_1_after_scaling_and_initial_outputs_are_near_uniform() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(500, 500, hidden_size=64, num_layers=2, num_heads=4)
    assert model.target_embedding.weight.std().item() * 8 == pytest.approx(1, rel=0.05)
    loss = nn.functional.cross_entropy(model(*torch.randint(500, (2, 8, 20))).flatten(0, 1), torch.randint(500, (160,)))
    assert loss.item() < math.log(500) + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, r"model\.num_heads: expected a divisor of model\.hidden_size, which is 16, got 3"),
        ({"num_kv_heads": 3}, r"model\.num_kv_heads"),
        ({"positions": "rotery"}, r"model\.positions: .*Did you mean rotary\?"),
        ({"positions": "learned", "length": None}, r"model\.positions=learned: not supported because"),
        ({"norm": "batch"}, r"model\.norm: expected one of layer rms, got batch"),
        ({"num_layers": 0}, r"model\.num_layers"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**options)


@pytest.mark.parametrize(("init", "bound"), [("xavier", math.sqrt(6 / (64 + 128))), ("uniform", 1 / math.sqrt(64))])
def test_initial_weights_fill_the_range_of_their_formula(init: str, bound: float) -> None:
    torch.manual_seed(0)
    weight = EncoderDecoder(11, 9, hidden_size=64, num_layers=1, ffn_ratio=2, init=init).encoder[0].up.weight
    assert 0.99 * bound < weight.abs().max() <= bound
