"""Names and shapes of published weights: BERT, GPT-2 and T5 as Hugging Face's transformers stores them."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]

# Published names -> names in dltrain, without the last part, such as ``.weight``. ``N`` is the index of a layer.
BERT_NAMES = {
    "embeddings.word_embeddings": "embedding",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "segments",
    "embeddings.LayerNorm": "norm",
    "encoder.layer.N.attention.output.dense": "blocks.N.mix",
    "encoder.layer.N.attention.output.LayerNorm": "blocks.N.norm1",
    "encoder.layer.N.intermediate.dense": "blocks.N.up",
    "encoder.layer.N.output.dense": "blocks.N.down",
    "encoder.layer.N.output.LayerNorm": "blocks.N.norm2",
    "pooler.dense": "pooler",
    "cls.predictions.transform.dense": "hidden_tokens.transform",
    "cls.predictions.transform.LayerNorm": "hidden_tokens.norm",
    "cls.predictions": "hidden_tokens",
    "cls.seq_relationship": "next_sentence",
}
BERT_EMBEDDING = "embeddings.word_embeddings.weight"
OLDER = {"gamma": "weight", "beta": "bias"}  # names of layer norm weights in the first published checkpoints
PARTS = ("query", "key", "value")
# Left out: copies of other weights, and tensors that are not weights.
LEFT_OUT = re.compile(r"embeddings\.position_ids|cls\.predictions\.decoder\.(weight|bias)")

GPT2_NAMES = {
    "wte": "embedding",
    "wpe": "positions",
    "h.N.ln_1": "blocks.N.norm1",
    "h.N.attn.c_attn": "blocks.N.qkv",
    "h.N.attn.c_proj": "blocks.N.mix",
    "h.N.ln_2": "blocks.N.norm2",
    "h.N.mlp.c_fc": "blocks.N.up",
    "h.N.mlp.c_proj": "blocks.N.down",
    "ln_f": "norm",
}
GPT2_EMBEDDING = "wte.weight"
GPT2_LEFT_OUT = re.compile(r"lm_head\.weight|h\.\d+\.attn\.(masked_)?bias")


# Patterns of published names -> names in dltrain, without ``.weight``.
T5_NAMES = {
    r"shared": "target_embedding",
    r"lm_head": "head",
    r"(encoder|decoder)\.final_layer_norm": r"\1_norm",
    r"(\w+)\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias": r"\1_distances",
    r"(\w+)\.block\.(\d+)\.layer\.0\.layer_norm": r"\1.\2.norm1",
    r"(\w+)\.block\.(\d+)\.layer\.0\.SelfAttention\.q": r"\1.\2.qkv",
    r"(\w+)\.block\.(\d+)\.layer\.0\.SelfAttention\.o": r"\1.\2.mix",
    r"decoder\.block\.(\d+)\.layer\.1\.layer_norm": r"decoder.\1.norm_cross",
    r"decoder\.block\.(\d+)\.layer\.1\.EncDecAttention\.q": r"decoder.\1.cross.query",
    r"decoder\.block\.(\d+)\.layer\.1\.EncDecAttention\.k": r"decoder.\1.cross.kv",
    r"decoder\.block\.(\d+)\.layer\.1\.EncDecAttention\.o": r"decoder.\1.cross.mix",
    r"encoder\.block\.(\d+)\.layer\.1\.layer_norm": r"encoder.\1.norm2",
    r"decoder\.block\.(\d+)\.layer\.2\.layer_norm": r"decoder.\1.norm2",
    r"(\w+)\.block\.(\d+)\.layer\.[12]\.DenseReluDense\.wi(?:_0)?": r"\1.\2.up",
    r"(\w+)\.block\.(\d+)\.layer\.[12]\.DenseReluDense\.wi_1": r"\1.\2.gate",
    r"(\w+)\.block\.(\d+)\.layer\.[12]\.DenseReluDense\.wo": r"\1.\2.down",
}
T5_EMBEDDING = "shared.weight"
T5_JOINED = {"SelfAttention.q": "qkv", "EncDecAttention.k": "kv"}
# Left out: matrices that are joined to others (see `T5_JOINED`), and copies of the embedding.
T5_LEFT_OUT = re.compile(r".*(SelfAttention\.[kv]|EncDecAttention\.v|embed_tokens)")


def bert_names(weights: Weights) -> Weights:
    """Return weights of BERT under the names of `dltrain.models.bert.BERT`; other weights are returned unchanged.

    Weights and biases of queries, keys and values are joined into one matrix and one bias per layer.
    """
    published = {name.removeprefix("bert."): value for name, value in weights.items()}
    if BERT_EMBEDDING not in published:
        return weights
    found: dict[str, Tensor] = {}
    for name, value in published.items():
        head, _, kind = name.rpartition(".")
        if LEFT_OUT.fullmatch(name):
            continue
        if match := re.fullmatch(r"encoder\.layer\.(\d+)\.attention\.self\.query", head):
            names = [f"encoder.layer.{match[1]}.attention.self.{part}.{kind}" for part in PARTS]
            if all(part in published for part in names):
                found[f"blocks.{match[1]}.qkv.{kind}"] = torch.cat([published[part] for part in names])
        elif not re.fullmatch(r"encoder\.layer\.\d+\.attention\.self\.(key|value)", head):
            found[f"{_renamed(head, BERT_NAMES)}.{OLDER.get(kind, kind)}".lstrip(".")] = value
    return found


def gpt2_names(weights: Weights) -> Weights:
    """Return weights of GPT-2 under the names of `dltrain.models.gpt.GPT`; other weights are returned unchanged.

    GPT-2 stores the matrices of linear layers transposed. The output layer repeats the embedding and is left out.
    """
    published = {name.removeprefix("transformer."): value for name, value in weights.items()}
    if GPT2_EMBEDDING not in published:
        return weights
    found: dict[str, Tensor] = {}
    for name, value in published.items():
        head, _, kind = name.rpartition(".")
        if not GPT2_LEFT_OUT.fullmatch(name):
            is_transposed = kind == "weight" and re.search(r"\.c_\w+$", head) and value.dim() == 2
            found[f"{_renamed(head, GPT2_NAMES)}.{kind}"] = value.T.contiguous() if is_transposed else value
    return found


def t5_names(weights: Weights) -> Weights:
    """Return weights of T5 under the names of `dltrain.models.t5.T5`; other weights are returned unchanged.

    The matrices of queries, keys and values of self-attention are joined into one, and the matrices of keys and values
    of cross-attention into another. If the output layer repeats the embedding, it is left out.
    """
    if T5_EMBEDDING not in weights:
        return weights
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        head = name.removesuffix(".weight")
        pattern = next((pattern for pattern in T5_NAMES if re.fullmatch(pattern, head)), None)
        if T5_LEFT_OUT.fullmatch(head) or (head == "lm_head" and torch.equal(value, weights[T5_EMBEDDING])):
            continue
        if pattern is None:
            found[name] = value
            continue
        joined = next((parts for end, parts in T5_JOINED.items() if head.endswith(end)), None)
        names = [name] if joined is None else [f"{head[:-1]}{part}.weight" for part in joined]
        if all(part in weights for part in names):
            found[f"{re.sub(pattern, T5_NAMES[pattern], head)}.weight"] = torch.cat([weights[part] for part in names])
    return found


def _renamed(head: str, names: Mapping[str, str]) -> str:
    number = re.search(r"\.(\d+)\.", head)
    general = re.sub(r"\.\d+\.", ".N.", head, count=1)
    renamed = names.get(general, general)
    return renamed.replace(".N.", f".{number[1]}.") if number else renamed


def shorten_positions(weights: Weights, name: str, length: int) -> Weights:
    """Return weights with at most the first ``length`` rows of the position embeddings called ``name``."""
    table = weights.get(name)
    return {**weights, name: table[:length]} if table is not None and len(table) > length else weights
