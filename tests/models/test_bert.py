"""BERT: outputs compared with torch and the package transformers; padding, segments, and outputs of each task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.models.bert import BERT
from dltrain.models.published_layouts import Weights, bert_names, gpt2_names

SIZE, LENGTH = 60, 12
LENGTHS = torch.tensor([12, 5, 1])
MINILM = Path("~/.cache/dltrain/weights/minilm").expanduser()


def bert(outputs: int = SIZE, **options: Any) -> BERT:
    torch.manual_seed(0)
    return BERT(SIZE, LENGTH, outputs, 24, 3, 4, **options).eval()


def tokens() -> Tensor:
    return torch.randint(0, SIZE, (3, LENGTH), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def published() -> Any:
    """Return a BERT network of the package transformers with random weights and 20 positions."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=SIZE,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=20,
    )
    torch.manual_seed(0)
    network = transformers.BertForPreTraining(config).eval()
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network


@torch.no_grad()
def test_hidden_states_equal_the_hidden_states_of_a_torch_encoder_with_the_same_weights() -> None:
    network, x = bert(2), tokens()
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    options: dict[str, Any] = {"activation": "gelu", "layer_norm_eps": 1e-12, "batch_first": True}
    layer = nn.TransformerEncoderLayer(24, 4, 96, 0.0, **options)
    reference = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    names = {"qkv.": "self_attn.in_proj_", "mix.": "self_attn.out_proj.", "up.": "linear1.", "down.": "linear2."}
    state = {
        f"layers.{name}": value
        for name, value in network.blocks.state_dict().items()
        for name in [next((name.replace(*pair) for pair in names.items() if pair[0] in name), name)]
    }
    reference.load_state_dict(state)
    embedded = network.embedding(x) + network.positions.weight + network.segments.weight[0]
    padding = torch.arange(LENGTH) >= LENGTHS[:, None]
    states = reference(F.layer_norm(embedded, (24,), network.norm.weight, network.norm.bias, 1e-12), None, padding)
    torch.testing.assert_close(network.encode(x, LENGTHS)[~padding], states[~padding], atol=1e-5, rtol=0)
    own = network.pooler
    assert own is not None
    torch.testing.assert_close(network.pool(states), (states[:, 0] @ own.weight.T + own.bias).tanh())


@pytest.mark.slow
@torch.no_grad()
def test_outputs_equal_the_outputs_of_the_package_transformers_with_the_same_weights(published: Any) -> None:
    x, own = tokens(), torch.arange(LENGTH) < LENGTHS[:, None]
    segments = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(1))
    there = published.bert(x, attention_mask=own.long(), token_type_ids=segments)
    hidden_tokens, pooled = bert(each_step=True), bert(2)
    assert not hidden_tokens.load_state_dict(hidden_tokens.adapt_weights(published.state_dict()), strict=False)[0]
    missing, _ = pooled.load_state_dict(pooled.adapt_weights(published.bert.state_dict()), strict=False)
    assert missing == ["head.weight", "head.bias"]
    states = pooled.encode(x, LENGTHS, segments)
    torch.testing.assert_close(states[own], there.last_hidden_state[own], atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled.pool(states), there.pooler_output, atol=1e-5, rtol=0)
    logits = published(x, attention_mask=own.long(), token_type_ids=segments).prediction_logits
    torch.testing.assert_close(hidden_tokens(x, LENGTHS, segments)[own], logits[own], atol=1e-5, rtol=0)
    pairs = bert(each_step=True, next_sentence=True)
    pairs.load_state_dict(pairs.adapt_weights(published.state_dict()), strict=True)
    tokens_of_pairs, found = pairs(x, LENGTHS, segments)
    expected = published(x, attention_mask=own.long(), token_type_ids=segments).seq_relationship_logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens_of_pairs[own], logits[own], atol=1e-5, rtol=0)


@pytest.mark.parametrize("adapt", [bert_names, gpt2_names])
def test_weights_without_the_published_embeddings_keep_their_names(adapt: Callable[[Weights], Weights]) -> None:
    weights = {"bert.pooler.dense.bias": torch.ones(2), "transformer.ln_f.bias": torch.ones(2)}
    assert adapt(weights) == weights


@pytest.mark.slow
@pytest.mark.skipif(not MINILM.is_dir(), reason="needs the weights of MiniLM")
@torch.no_grad()
def test_embeddings_of_minilm_equal_the_embeddings_of_the_package_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from dltrain.datasets.tokenizer_file import read_tokenizer
    from dltrain.runs.weight_files import read_weights

    found = read_weights(str(MINILM / "model.safetensors"), ())
    network = BERT(30522, 128, 2, 384, 6, 12, readout="mean").eval()
    missing, _ = network.load_state_dict(network.adapt_weights(found.tensors), strict=False)
    assert missing == ["head.weight", "head.bias"]
    reference = transformers.AutoModel.from_pretrained(MINILM).eval()
    words = transformers.AutoTokenizer.from_pretrained(MINILM)
    vocabulary = read_tokenizer(str(MINILM / "tokenizer.json")).tokens
    for text in ("A film to remember.", "Naïve, unwatchable [MASK]!"):
        ids = [vocabulary.begin, *vocabulary.encode(text), vocabulary.end]  # type: ignore[misc]
        assert ids == words(text)["input_ids"]
        x = torch.tensor([ids])
        expected = reference(x).last_hidden_state
        torch.testing.assert_close(network.encode(x), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(network.pool(network.encode(x)), expected.mean(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"each_step": True}, {}, {"readout": "mean"}])
@torch.no_grad()
def test_padding_changes_no_output(options: dict[str, Any]) -> None:
    network, x = bert(5, **options), tokens()
    changed = torch.where(torch.arange(LENGTH) < LENGTHS[:, None], x, SIZE - 1 - x)
    own = torch.arange(LENGTH) < LENGTHS[:, None] if options.get("each_step") else slice(None)
    before, after = network(x, LENGTHS), network(changed, LENGTHS)
    torch.testing.assert_close(before[own], after[own], atol=1e-6, rtol=0)
    alone = network(x[1:2, :5])
    torch.testing.assert_close(before[1:2, :5] if options.get("each_step") else before[1:2], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_segments_all_tokens_are_in_the_first_segment() -> None:
    network, x = bert(2), tokens()
    torch.testing.assert_close(network(x), network(x, segments=torch.zeros_like(x)))
    assert not torch.allclose(network(x), network(x, segments=torch.ones_like(x)))


def test_the_embedding_and_the_output_layer_for_masked_tokens_share_their_weights() -> None:
    network = bert(each_step=True)
    assert sum(p.shape[0] == SIZE and p.dim() == 2 for p in network.parameters()) == 1
    assert network(tokens()).shape == (3, LENGTH, SIZE)


def test_a_task_that_must_not_read_later_tokens_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"^model: not supported because bert reads all tokens"):
        bert(causal=True)


def test_outputs_for_pairs_require_outputs_for_masked_tokens() -> None:
    logits, pairs = bert(each_step=True, next_sentence=True)(tokens())
    assert logits.shape == (3, LENGTH, SIZE) and pairs.shape == (3, 2)
    with pytest.raises(ConfigError, match=r"^model.next_sentence: expected null for a task without masked tokens"):
        bert(2, next_sentence=True)
