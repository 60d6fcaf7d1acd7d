"""``dltrain summary``: print layers, parameters and memory; with ``--input`` and ``--outputs``, no data are needed."""

import argparse

from dltrain.config.compose import compose
from dltrain.errors import ConfigError
from dltrain.loggers.console import Console

COLUMNS = ("layer", "kind", "output", "parameters", "multiply-adds", "receptive field")


def main(arguments: argparse.Namespace, started: float) -> int:
    """Compose the configuration, build its model on the meta device and print the summary."""
    if (arguments.input is None) != (arguments.outputs is None):
        got = "--outputs" if arguments.input is None else "--input"
        hint = "Example: --input 3x32x32 --outputs 10"
        raise ConfigError(f"--input and --outputs: expected both or neither, got only {got}. {hint}")
    job = compose(arguments.overrides, tuple(arguments.config_dir))
    from dltrain.runs.model_summary import summarize_job

    summary = summarize_job(job, arguments.input, arguments.outputs)
    batch_size = summary.batch_size
    rows = []
    for row in summary.rows:
        output, field = ("x".join(map(str, sizes)) for sizes in (row.shape[1:], row.receptive_field or ()))
        operations = row.multiply_adds // batch_size
        rows.append([row.name, row.kind, output, f"{row.parameters:,}", f"{operations:,}", field])
    memory = summary.memory
    kinds = ("parameters", "gradients", "optimizer", "activations")
    shares = ", ".join(f"{kind} {format_bytes(getattr(memory, kind))}" for kind in kinds)
    caption = (
        f"{summary.parameters:,} parameters ({summary.trainable:,} trainable), "
        f"{summary.multiply_adds // batch_size:,} multiply-adds per example\n"
        f"a training step with batch size {batch_size} needs about {format_bytes(memory.total)} of memory in fp32: "
        f"{shares}"
    )
    Console().table(f"model={job.choices['model']}", COLUMNS, rows, caption, results=True)
    return 0


def format_bytes(count: float) -> str:
    """Return a number of bytes with up to three significant digits and a unit: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:  # larger counts would be rounded to 1e+03
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
