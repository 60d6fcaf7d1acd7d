"""T5 equals transformers' T5 with the same weights, reads no later target tokens, and decodes with a cache."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.models.t5 import T5
from dltrain.tasks.beam_search import BeamSearch

LENGTHS = torch.tensor([5, 1, 40, 3])
VERSIONS: dict[str, dict[str, Any]] = {
    "1.0": {},
    "1.1": {"gated": True, "activation": "gelu_tanh", "tie_embeddings": False, "head_size": 6, "ffn_size": 20},
}


def build(version: str = "1.0", **options: Any) -> T5:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 4, "shared_vocabulary": True}
    return T5(11, 11, **{**sizes, **VERSIONS[version], **options}).eval()


def sources(pad: int = 0, width: int = 40) -> Tensor:
    tokens = torch.randint(1, 11, (4, width), generator=torch.Generator().manual_seed(1))
    return torch.where(torch.arange(width) < LENGTHS[:, None], tokens, pad)


def targets(steps: int = 30) -> Tensor:
    return torch.randint(0, 11, (4, steps), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("version", VERSIONS)
@torch.no_grad()
def test_outputs_equal_those_of_transformers_with_the_same_weights(version: str) -> None:
    transformers = pytest.importorskip("transformers")
    model = build(version).double()
    config = transformers.T5Config(
        vocab_size=11,
        d_model=16,
        d_kv=VERSIONS[version].get("head_size", 4),
        d_ff=VERSIONS[version].get("ffn_size", 64),
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu" if version == "1.1" else "relu",
        tie_word_embeddings=version == "1.0",
    )
    torch.manual_seed(1)
    theirs = transformers.T5ForConditionalGeneration(config).double().eval()
    if version == "1.1":  # unlike published weights, a new transformers model has no separate output layer
        theirs.lm_head.weight = nn.Parameter(torch.empty_like(theirs.lm_head.weight))
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.4)
    model.load_state_dict(dict(model.adapt_weights(theirs.state_dict())))
    inside = torch.arange(40) < LENGTHS[:, None]
    expected = theirs(input_ids=sources(), attention_mask=inside.long(), decoder_input_ids=targets()).logits
    torch.testing.assert_close(model(sources(), targets(), LENGTHS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
@torch.no_grad()
def test_padding_and_other_rows_change_no_output(version: str) -> None:
    model, previous = build(version).double(), targets()
    pairs = zip(sources().split(1), previous.split(1), LENGTHS.tolist(), strict=True)
    alone = torch.cat([model(source[:, :length], target) for source, target, length in pairs])
    for padded in (sources(), sources(pad=7), torch.cat([sources(), torch.full((4, 3), 5)], dim=1)):
        torch.testing.assert_close(model(padded, previous, LENGTHS), alone, atol=1e-7, rtol=1e-7)
    assert not torch.allclose(model(sources(), previous), alone, atol=1e-3)


@torch.no_grad()
def test_a_later_token_of_the_target_changes_no_earlier_output() -> None:
    model, previous = build().double(), targets()
    changed = previous.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 11
    difference = (model(sources(), changed, LENGTHS) - model(sources(), previous, LENGTHS)).abs().amax((0, 2))
    assert difference[:3].max() == 0 and difference[3:].min() > 0


@pytest.mark.parametrize("sizes", [[1] * 30, [2, 1, 27]], ids=["one", "pieces"])
@torch.no_grad()
def test_decoding_with_a_cache_equals_decoding_in_one_pass(sizes: list[int]) -> None:
    model, outputs = build("1.1").double(), []
    state = model(sources(), lengths=LENGTHS)
    for piece in targets().split(sizes, dim=1):
        output, state = model(piece, state=state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), model(sources(), targets(), LENGTHS), atol=1e-7, rtol=1e-7)


@torch.no_grad()
def test_cached_decoding_returns_the_tokens_of_decoding_without_a_cache() -> None:
    model, written = build().double(), torch.full((4, 1), 2)
    for _ in range(12):
        logits = model(sources(), written, LENGTHS)[:, -1]
        logits[:, [0, 2, 3]] = -torch.inf  # no special tokens, so that all targets have the same length
        written = torch.cat([written, logits.argmax(-1, keepdim=True)], dim=1)
    found = BeamSearch(begin=2, end=3, excluded=(0, 2, 3), length=12)(model, model(sources(), lengths=LENGTHS))
    assert torch.equal(found.tokens, written[:, 1:])


def test_source_and_target_share_their_embedding_only_if_they_share_their_vocabulary() -> None:
    shared, separate = build(), build(shared_vocabulary=None)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (shared, separate)]
    assert sizes[1] - sizes[0] == 11 * 16
    assert not any("bias" in name for name in shared.state_dict())


def test_initial_weights_have_the_scale_of_t5_and_initial_outputs_are_of_order_1() -> None:
    torch.manual_seed(0)
    model = T5(500, 500, 64, 2, 4, shared_vocabulary=True)
    assert model.encoder[0].qkv.weight[:64].std().item() == pytest.approx((64 * 16) ** -0.5, rel=0.1)
    assert model.encoder[0].qkv.weight[64:].std().item() == pytest.approx(64**-0.5, rel=0.1)
    assert model(*torch.randint(500, (2, 8, 20))).std().item() == pytest.approx(1, rel=0.5)


@torch.no_grad()
def test_outputs_with_relative_positions_are_finite_under_bfloat16_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert build()(sources(), targets(), LENGTHS).isfinite().all()


def test_adapt_weights_leaves_out_query_key_and_value_if_one_of_them_is_missing() -> None:
    query = "encoder.block.0.layer.0.SelfAttention.q.weight"
    assert list(build().adapt_weights({"shared.weight": torch.zeros(11, 16), query: torch.zeros(16, 16)})) == [
        "target_embedding.weight"
    ]


def test_invalid_options_are_rejected() -> None:
    for options in ({"num_heads": 3}, {"ffn_size": 0}, {"num_buckets": 3}, {"max_distance": 16}):
        with pytest.raises(ConfigError, match=f"model.{next(iter(options))}"):
            build(**options)
