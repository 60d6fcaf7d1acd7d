"""``dltrain summary``: layers, parameters and memory of a model, without training and without data files."""

import argparse
from typing import TYPE_CHECKING

from dltrain.config.compose import Job, compose
from dltrain.errors import ConfigError
from dltrain.loggers.console import Console

if TYPE_CHECKING:
    from dltrain.profiling.summary import Summary

COLUMNS = ("layer", "kind", "output", "parameters", "multiply-adds", "receptive field")


def main(arguments: argparse.Namespace, started: float) -> int:
    """Compose, build on the meta device, print."""
    if (arguments.input is None) != (arguments.outputs is None):
        raise ConfigError("--input and --outputs: expected both or neither. Example: --input 3x32x32 --outputs 10")
    job = compose(arguments.overrides, tuple(arguments.config_dir))
    from dltrain.runs.model_summary import summarize_job

    _print_summary(summarize_job(job, arguments.input, arguments.outputs), job)
    return 0


def _print_summary(summary: "Summary", job: Job) -> None:
    """Print the table and the totals on standard output."""
    batch_size = job.resolved["data"]["batch_size"]
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
    shares = ", ".join(
        f"{name} {_format_bytes(getattr(memory, name))}"
        for name in ("parameters", "gradients", "optimizer", "activations")
    )
    caption = (
        f"{summary.parameters:,} parameters ({summary.trainable:,} trainable), "
        f"{summary.multiply_adds // batch_size:,} multiply-adds per example\n"
        f"a step of {batch_size} takes about {_format_bytes(memory.total)} in fp32: {shares}"
    )
    Console().table(f"model={job.choices['model']}", COLUMNS, rows, caption, results=True)


def _format_bytes(count: float) -> str:
    """Return a number of bytes with three digits and a unit: ``1.5 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
