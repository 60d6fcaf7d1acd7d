"""``dltrain generate RUN``: samples, reconstructions and interpolations of a run's model, as a file."""

import argparse
import os
from pathlib import Path

from dltrain.config.groups import is_override
from dltrain.data.inputs import check_inputs
from dltrain.errors import ConfigError, format_error
from dltrain.loggers.console import Console
from dltrain.runs.job import open_run
from dltrain.runs.overridable import check_predict
from dltrain.storage.atomic import write_atomic


def main(arguments: argparse.Namespace, started: float) -> int:
    """Read the folder, rebuild the model, generate examples, write them and print the file's name."""
    given = [word for word in arguments.given if not is_override(word)]
    overrides = [*arguments.overrides, *filter(is_override, arguments.given)]
    if given and arguments.count:
        raise ConfigError("--count: not supported with --given because --given yields one example per INPUT")
    path, job, changes = open_run(arguments.names[0], overrides)
    check_inputs(given)
    if arguments.out:
        _reject_existing(Path(os.path.expanduser(arguments.out)), arguments.force)
    check_predict(changes)
    job.ready()
    from dltrain.runs import export, generation
    from dltrain.runs.inference import rebuild_components, restore_weights

    components = rebuild_components(job, path)
    spec = components.data.spec
    out = Path(os.path.expanduser(arguments.out or f"generated{next(iter(export.encoders(spec)))}"))
    step = restore_weights(components, path, f"{arguments.checkpoint}.pt")
    label = None if arguments.label is None else generation.class_number(arguments.label, spec)
    count = arguments.count or generation.COUNT
    made = generation.generate(components, count, arguments.seed, label, arguments.interpolate, given)
    content = export.encode(made, out, spec)
    _reject_existing(out, arguments.force)
    try:
        write_atomic(out, content)
    except OSError as error:
        raise ConfigError(format_error("--out", f"a file that can be written at {out}", error.strerror)) from error
    Console().info(f"{path}: {arguments.checkpoint} checkpoint, of step {step:,}: {len(made.examples):,} examples")
    print(out)
    return 0


def _reject_existing(path: Path, force: bool) -> None:
    """Reject a path without a folder, and one that exists unless it is a file and ``force`` is set."""
    if not os.path.isdir(path.parent):
        raise ConfigError(format_error("--out", "a file in an existing folder", path))
    if os.path.isdir(path) or (os.path.exists(path) and not force):
        raise ConfigError(format_error("--out", "a new file", path, "It exists; --force replaces a file."))
