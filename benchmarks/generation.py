"""Compare text generation with and without a cache or state: tokens per second, and the ratio of the two rates.

    python generation.py [--models gpt,t5] [--tokens N] [--context N] [--rounds N]

Models have random weights. Without a cache, the context is recomputed for each new token: `Window` runs a GPT or LSTM
on the last tokens, and `Recomputed` runs an encoder-decoder on the source and all previous tokens. Both methods give
the same tokens, unless the context of a GPT or an LSTM is shorter than the text. The methods alternate in one process
on one thread. Times are CPU times. The ratio is the median of the ratios of all rounds.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from dltrain.models.encoder_decoder import EncoderDecoder
from dltrain.models.gpt import GPT
from dltrain.models.recurrent import Recurrent
from dltrain.models.seq2seq import Seq2Seq
from dltrain.models.t5 import T5
from dltrain.tasks.decoding import Sampling, Window, draw_tokens, sample_tokens

CHARACTERS, SUBWORDS = 74, 50_257
SOURCE = 32  # length of the source in tokens
SAMPLING = Sampling(temperature=0.8)


def gpt(length: int, vocabulary: int = CHARACTERS, **sizes: Any) -> GPT:
    return GPT(vocabulary, length, vocabulary, **sizes)


MODELS: Mapping[str, Callable[[int], nn.Module]] = {
    "gpt": gpt,
    "gpt_nano": lambda length: gpt(length, hidden_size=48, num_layers=3, num_heads=3),
    "gpt2": lambda length: gpt(length, SUBWORDS, hidden_size=768, num_layers=12, num_heads=12),
    "lstm": lambda _: Recurrent("lstm", 1, CHARACTERS, hidden_size=128, vocabulary=CHARACTERS, each_step=True),
    "transformer_seq2seq": lambda _: EncoderDecoder(CHARACTERS, CHARACTERS),
    "t5": lambda _: T5(CHARACTERS, CHARACTERS),
    "seq2seq": lambda _: Seq2Seq(CHARACTERS, CHARACTERS),
}


class Recomputed:
    """Adapter that runs an encoder-decoder without a cache: each step reads the source and all previous tokens."""

    def __init__(self, model: nn.Module, source: Tensor) -> None:
        self.model, self.source = model, source

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = torch.cat([state["tokens"], x], dim=1)
        return self.model.forward(self.source, tokens), {"tokens": tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help=f"models, separated by commas: {','.join(MODELS)}")
    parser.add_argument("--tokens", type=int, default=256, help="tokens to generate")
    parser.add_argument("--context", type=int, help="context of GPTs and the LSTM in tokens (default: --tokens)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'model':20} {'cached':>9} {'uncached':>9} {'ratio (min-max)':>20}   tokens per second of CPU time")
    for name in options.models.split(","):
        compare(name, options.tokens, options.context or options.tokens, options.rounds)


def compare(name: str, count: int, context: int, rounds: int) -> None:
    """Print the rates of one model and their ratio."""
    torch.manual_seed(0)
    model = MODELS[name](context).eval()
    write(model, 4, context, True)
    times = []
    for _ in range(rounds):
        (cached, first), (uncached, second) = (write(model, count, context, c) for c in (True, False))
        if cached != uncached and count <= context:
            raise SystemExit(f"{name}: the cache changes the tokens")
        times.append((first, second))
    rates = [count / statistics.median(side) for side in zip(*times, strict=True)]
    ratios = [second / first for first, second in times]
    spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})"
    print(f"{name:20} {rates[0]:9,.0f} {rates[1]:9,.0f} {spread:>20}", flush=True)


@torch.inference_mode()
def write(model: nn.Module, count: int, context: int, cached: bool) -> tuple[list[int], float]:
    """Return `count` generated tokens, and the CPU time in seconds."""
    started = time.thread_time()
    tokens = [int(token) for token in itertools.islice(stream(model, context, cached), count)]
    return tokens, time.thread_time() - started


def stream(model: nn.Module, context: int, cached: bool) -> Iterator[Tensor]:
    noise, begin = Generator().manual_seed(0), torch.tensor([[1]])
    if hasattr(model, "start"):
        reader: Any = model if cached else Window(model, context)
        return sample_tokens(reader, begin, context, SAMPLING, noise)
    source = torch.arange(SOURCE)[None]
    if cached:
        logits, state = model.forward(begin, state=model(source))
        return draw_tokens(model, logits, state, SAMPLING, noise)
    recomputed = Recomputed(model, source)
    logits, state = recomputed.forward(begin, {"tokens": begin[:, :0]})
    return draw_tokens(recomputed, logits, state, SAMPLING, noise)


if __name__ == "__main__":
    main()
