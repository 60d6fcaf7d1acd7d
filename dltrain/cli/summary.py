"""``dltrain summary``: what a model is made of and what a step will take, without training and without data on disk."""

import argparse
import functools
from typing import TYPE_CHECKING, Any

from dltrain.cli.main import Command, Parser
from dltrain.config.compose import Job, compose
from dltrain.errors import ConfigError, format_error
from dltrain.loggers.console import Console

if TYPE_CHECKING:
    from torch import Tensor

    from dltrain.profiling.summary import Summary

USAGE = """\
dltrain summary [GROUP=OPTION ...] [KEY=VALUE ...] [--input SHAPE --outputs N]

Layers, parameters, multiply-adds, receptive field, and the memory a training step will take. Nothing is trained and
no memory for weights is used: large networks take no longer than small ones.

  --input SHAPE   one example instead of data=: 3x32x32 a picture, 96x7 a series of 7, 784 a vector, 1024 tokens
  --outputs N     numbers the model is to say; for a language model the size of the vocabulary

  dltrain summary model=cnn data=digits
  dltrain summary model=lenet5 --input 1x28x28 --outputs 10
  dltrain summary model=gpt --input 1024 --outputs 50257 model.hidden_size=768 model.num_layers=12 model.num_heads=12
"""


def main(command: Command, started: float) -> int:
    """Compose, build on the meta device, print."""
    if {"--help", "-h"} & set(command.rest):
        print(USAGE)
        return 0
    given = read(command.rest)
    job = compose(command.overrides, command.config_dirs)
    from dltrain.profiling.summary import summarise
    from dltrain.runs import assemble

    facts, example = facts_given(job, given) if given.input else facts_of_data(job)
    batch_size = job.resolved["data"]["batch_size"]
    make = functools.partial(assemble.build_model, job, facts)
    summary = summarise(make, [example], batch_size, optimizer_states(job))
    show(Console(), summary, batch_size, job)
    return 0


def read(flags: list[str]) -> argparse.Namespace:
    """The verb's own flags.

    Raises:
        ConfigError: When they make no sense.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--input", type=shape)
    parser.add_argument("--outputs", type=int)
    given = parser.parse_args(flags)
    if (given.input is None) != (given.outputs is None):
        raise ConfigError("--input and --outputs: expected both or neither. Example: --input 3x32x32 --outputs 10")
    if given.outputs is not None and given.outputs < 1:
        raise ConfigError(format_error("--outputs", "a whole number at least 1", given.outputs))
    return given


def shape(text: str) -> tuple[int, ...]:
    """``3x32x32`` -> (3, 32, 32)."""
    sizes = text.split("x")
    if not all(size.isdigit() and int(size) for size in sizes) or len(sizes) > 3:
        raise ConfigError(format_error("--input", "one to three sizes such as 3x32x32, 96x7 or 784", text))
    return tuple(map(int, sizes))


def facts_given(job: Job, given: argparse.Namespace) -> tuple[dict[str, Any], "Tensor"]:
    """The facts that a shape says, and an example of it."""
    import torch

    from dltrain.config import instantiate
    from dltrain.data.spec import Spec
    from dltrain.runs import assemble, compatibility

    sizes: tuple[int, ...] = given.input
    needed = instantiate.required_facts(job.resolved["model"], "model", job.allow)
    tokens = "vocabulary" in needed
    if tokens:
        spec = Spec(shape=sizes, length=sizes[0], vocabulary=given.outputs, features=given.outputs)
    else:
        spec = Spec(shape=sizes, size=functools.reduce(int.__mul__, sizes), **named(sizes))
    facts = assemble.spec_facts(spec) | {"outputs": given.outputs, "each_step": tokens, "causal": tokens}
    if set(needed) & set(compatibility.TASK_FACTS) - facts.keys():  # stated by the model's own task
        facts = {**assemble.build_task(job, spec)[1], **facts}
    return facts, torch.zeros(sizes, dtype=torch.int64 if tokens else torch.float32, device="meta")


def named(sizes: tuple[int, ...]) -> dict[str, Any]:
    """The names of the axes of a picture or a series."""
    if len(sizes) == 3:
        channels, height, width = sizes
        picture = {"channels": channels, "height": height, "width": width}
        return {**picture, "features": channels * width, "length": height}
    return {"length": sizes[0], "features": sizes[1], "columns": sizes[1]} if len(sizes) == 2 else {}


def facts_of_data(job: Job) -> tuple[dict[str, Any], "Tensor"]:
    """The facts that data and task state, and an example; nothing is loaded."""
    import torch

    from dltrain.config import instantiate
    from dltrain.data.spec import Data
    from dltrain.runs import assemble

    data: Data = instantiate.build(job.resolved["data"], "data", job.allow)
    _, facts = assemble.build_task(job, data.spec)
    kind = torch.float32 if data.spec.vocabulary is None else torch.int64
    return facts, torch.zeros(data.spec.shape or (), dtype=kind, device="meta")


def optimizer_states(job: Job) -> int:
    """Numbers an optimizer keeps per parameter, found by letting it take one step."""
    import torch

    from dltrain.config import instantiate

    node = dict(job.resolved["optimizer"])
    node.pop("schedule")
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = instantiate.partial(node, "optimizer", job.allow)([{"params": [weight]}])
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    states = optimizer.state_dict()
    found = [states] if "state" in states else states["parts"]
    return sum(value.numel() == 4 for part in found for state in part["state"].values() for value in state.values())


def show(console: Console, summary: "Summary", batch_size: int, job: Job) -> None:
    """The table and the totals, on standard output."""
    rows = [
        [
            row.name,
            row.kind,
            "x".join(map(str, row.shape[1:])),
            f"{row.parameters:,}",
            f"{row.multiply_adds // batch_size:,}",
            "x".join(map(str, row.receptive_field or ())),
        ]
        for row in summary.rows
    ]
    memory = summary.memory
    parts = [(name, getattr(memory, name)) for name in ("parameters", "gradients", "optimizer", "activations")]
    caption = (
        f"{summary.parameters:,} parameters ({summary.trainable:,} trainable), "
        f"{summary.multiply_adds // batch_size:,} multiply-adds per example\n"
        f"a step of {batch_size} takes about {size(memory.total)} in fp32: "
        + ", ".join(f"{name} {size(count)}" for name, count in parts)
    )
    heads = ["layer", "kind", "output", "parameters", "multiply-adds", "receptive field"]
    console.table(f"model={job.choices['model']}", heads, rows, caption, results=True)


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000
    return ""
