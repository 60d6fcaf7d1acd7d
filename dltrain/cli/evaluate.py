"""``dltrain evaluate RUN``: the figures of a run's checkpoint on one of its splits, as the run itself printed them."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dltrain.cli.hydra_flags import Parser
from dltrain.cli.main import Command, trusted
from dltrain.config.revise import revise_job
from dltrain.errors import ConfigError, format_error, suggest
from dltrain.loggers.console import Console
from dltrain.runs import job as stored
from dltrain.runs import overridable
from dltrain.storage import run_files

if TYPE_CHECKING:
    from dltrain.runs.inference import Trained

USAGE = """\
dltrain evaluate RUN [data.path=FILE ...] [device=OPTION device.KEY=VALUE ...] [FLAGS]

What a trained model reaches on data that it has not seen: the table that the run printed at its end, on standard
output. RUN is a run's folder, or latest; nothing is written there, and the run may still be going on.

The data are the run's own, wherever data.path= or data.root= says that they lie now, or other pictures and arrays of
the same classes. Other tables, series and texts are refused, as scales and words would be fitted to them anew; dltrain
predict says what the model makes of those.

  --split test|val|train       which of the run's own splits: test; training examples are not augmented
  --checkpoint best|last|FILE  which weights: those that did best in validation (the default), the newest, or a file of
                               the run's checkpoints/
  --json                       one JSON object instead of the table
  task.features=RUN            judge what the model makes up by the last hidden layer of that run's classifier

  dltrain evaluate latest
  dltrain evaluate outputs/lstm-timeseries/20261122-170146-f8f5 --split val
  dltrain evaluate latest data.path=/mnt/disk/sales.csv device=cpu
"""

SPLITS = ("test", "val", "train")


def main(command: Command, started: float) -> int:
    """Read the command and the folder, rebuild the model, measure and print."""
    if {"--help", "-h"} & set(command.rest):
        print(USAGE)
        return 0
    asked, typed = read(command)
    path = stored.find_run(asked.run)
    name = checkpoint(path, asked.checkpoint)
    job, changed = revise_job(stored.load_job(path, trusted(typed)), typed)
    overridable.check_predict(changed)
    job.ready()
    from dltrain.runs import classifier_features
    from dltrain.runs.inference import load_trained, rebuild_components

    console = Console()
    trained = load_trained(rebuild_components(job), path, name, own=True)
    classifier_features.attach_features(trained.components, job.allow)
    if getattr(trained.splits, asked.split) is None:
        raise ConfigError(format_error("--split", "test or train, as the run holds out no examples", asked.split))
    for note in trained.notes:
        console.warning(note)
    console.info(f"{path}: {name.removesuffix('.pt')} checkpoint, of step {trained.step:,}")
    show(console, asked, {"folder": str(path), "checkpoint": name, "step": trained.step}, trained)
    return 0


def read(command: Command) -> tuple[argparse.Namespace, list[str]]:
    """The verb's flags with the run, and the overrides.

    Raises:
        ConfigError: When they make no sense.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--json", action="store_true")
    asked, others = parser.parse_known_args(command.words)
    parser.refuse([word for word in others if word.startswith("-")])
    names = [word for word in others if word not in command.overrides]
    if len(names) != 1:
        usage = "dltrain evaluate RUN, RUN being a run's folder or latest"
        raise ConfigError(format_error("evaluate", usage, " ".join(names) or None))
    asked.run = names[0]
    return asked, command.overrides


def checkpoint(path: Path, asked: str) -> str:
    """The name of a checkpoint: ``best``, ``last``, or a file of the run's.

    Raises:
        ConfigError: When the run has no such file, naming the nearest.
    """
    if asked in ("best", "last"):
        return f"{asked}.pt"
    folder, file = path / run_files.CHECKPOINTS, Path(asked)
    known = sorted(found.name for found in folder.glob("*.pt"))
    if file.name in known and (file.name == asked or (os.path.exists(file) and file.samefile(folder / file.name))):
        return file.name
    hint = suggest(file.name, ["best", "last", *known]) or f"It has {' '.join(known) or 'none'}."
    raise ConfigError(format_error("--checkpoint", f"best, last or a file of {folder}", asked, hint))


def show(console: Console, asked: argparse.Namespace, about: dict[str, Any], trained: "Trained") -> None:
    """Measure and print, for people or as JSON."""
    from dltrain.runs import report

    found = trained.evaluate(asked.split)
    seen = report.feature_source(trained.components.task, found)
    if not asked.json:
        report.print_metrics(console, found.metrics, found.baselines, split=asked.split)
        for name in seen.values():
            console.info(report.feature_note(name))
        return
    figures = {"metric": trained.components.task.metric, "metrics": found.metrics, "baselines": found.baselines, **seen}
    print(json.dumps(report.finite_or_none({**about, "split": asked.split, **figures}), indent=2, allow_nan=False))
