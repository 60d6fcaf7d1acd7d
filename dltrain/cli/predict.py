"""``dltrain predict RUN INPUT ...``: what a run's model says about data that nobody has labelled."""

import argparse
import csv
import inspect
import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dltrain.cli.hydra_flags import Parser, above_zero, at_least_one, seed
from dltrain.cli.main import Command, is_override, trusted
from dltrain.cli.stdio import says
from dltrain.config.revise import revise_job
from dltrain.data.inputs import Given, check
from dltrain.errors import ConfigError, format_error
from dltrain.loggers.console import Console
from dltrain.runs import job as stored
from dltrain.runs import overridable

if TYPE_CHECKING:
    from dltrain.tasks.base import Task

USAGE = """\
dltrain predict RUN INPUT ... [FLAGS] [data.KEY=VALUE ... device=... device.KEY=VALUE ...]

What the trained model of a run says about new data: lines on standard output, messages on standard error. RUN is a
run's folder, or latest; INPUT is one or several files, or - for standard input, of the kind the run was trained on:

  pictures      picture files in any size and colour, folders of them, or .npy and .npz files of arrays
                -> class, class_name, probability, and probabilities of all classes
  arrays        .npy and .npz files (the array x, x_test, or the only one)
  a table       CSV files with the run's columns; others, and the predicted one, are ignored
                -> as for pictures, or the number under its column's name, in its own unit
  series        CSV files with the run's columns; the last data.window rows are read
                -> one line per step ahead: its time, its number, each series in its own unit;
                without INPUT the run's own series go on
  text          text files, or --text
                -> how they go on, and nats per character of what was given: what evaluation calls loss

  --format jsonl|csv      JSON lines (the default), or CSV with one header for all
  --checkpoint best|last  which weights: those that did best in validation (the default), or the newest
  --batch N               examples at a time; twice data.batch_size, as in evaluation, if not given
  --top K                 probabilities of the K likeliest classes only, the likeliest first
  --text TEXT             a text to go on with
  --length N              tokens to add to a text: 200
  --temperature T         below 1 prefers what is likely: 0.8
  --seed N                another continuation: 0
  --                      all that follows are INPUTs, even if they begin with - or look like KEY=VALUE

All INPUTs are looked for before the first is read. One that cannot be read ends the command with exit code 2 and its
number; the lines of those before it are out then. Data are needed as in training, since scales and names come from
them; data.path= and data.root= say where they are now.

  dltrain predict latest holiday.jpg
  dltrain predict outputs/cnn-image_folder/20261122-170146-f8f5 scans/ --top 3 --format csv > classes.csv
  cat new.csv | dltrain predict latest -
  dltrain predict latest --text "It was " --length 500
"""

# Flags that are arguments of a task's own `predict`.
OF_THE_TASK = ("length", "temperature", "seed")


def main(command: Command, started: float) -> int:
    """Read the command and the folder, rebuild the model, write what it says."""
    if {"--help", "-h"} & set(command.words):
        print(USAGE)
        return 0
    asked, run, names, typed = read(command.words)
    path = stored.find_run(run)
    check(names)
    job, changed = revise_job(stored.load_job(path, trusted(typed)), typed)
    overridable.check_predict(changed)
    job.ready()
    from dltrain.runs.inference import load_trained, rebuild_components

    components = rebuild_components(job)
    wishes = wishes_of(asked, components.task)
    trained = load_trained(components, path, f"{asked.checkpoint}.pt")
    console = Console()
    console.info(f"{path}: {asked.checkpoint} checkpoint, of step {trained.step:,}")
    for note in trained.notes:
        console.warning(f"{path}: {note}")
    given = Given(tuple(names), asked.text, asked.batch or 2 * trained.components.data.batch_size)
    write(trained.predict(given, wishes), asked.format, asked.top)
    return 0


def read(words: Iterable[str]) -> tuple[argparse.Namespace, str, list[str], list[str]]:
    """The verb's flags, the run, the INPUTs and the overrides.

    Raises:
        ConfigError: When they make no sense.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--format", choices=("jsonl", "csv"), default="jsonl")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    for name in ("--batch", "--top", "--length"):
        parser.add_argument(name, type=at_least_one)
    parser.add_argument("--temperature", type=above_zero)
    parser.add_argument("--seed", type=seed)
    parser.add_argument("--text")
    before, after = split(list(words))
    asked, others = parser.parse_known_args(before)
    parser.refuse([word for word in others if word.startswith("-") and word != "-"])
    typed = [word for word in others if is_override(word)]
    names = [*(word for word in others if word not in typed), *after]
    if not names:
        raise ConfigError(
            format_error("predict", "dltrain predict RUN INPUT, RUN being a run's folder or latest", None)
        )
    return asked, names[0], names[1:], typed


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before ``--``, and the names behind it, whatever they look like."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def wishes_of(asked: argparse.Namespace, task: "Task") -> dict[str, Any]:
    """The flags that this task's `predict` takes.

    Raises:
        ConfigError: For a flag that it does not take, or a task that predicts nothing.
    """
    from dltrain.tasks.base import Task

    kind = type(task).__name__
    if type(task).predict is Task.predict:
        hint = "dltrain generate RUN shows what its model makes up, with --given INPUT of what it is given."
        raise ConfigError(format_error("predict", "a run whose task says something about examples", kind, hint))
    wishes = {name: getattr(asked, name) for name in OF_THE_TASK if getattr(asked, name) is not None}
    known = inspect.signature(task.predict).parameters
    if wrong := [name for name in wishes if name not in known]:
        raise ConfigError(*(f"--{name}: a run with the task {kind} takes no such flag" for name in wrong))
    return wishes


def write(pieces: Iterable[list[dict[str, Any]]], form: str, top: int | None) -> None:
    """All lines on standard output, each piece as soon as it is there."""
    writer: csv.DictWriter | None = None
    for piece in pieces:
        for line in piece:
            record = line if top is None else likeliest(line, top)
            if form == "jsonl":
                said = json.dumps(record, ensure_ascii=False, allow_nan=False)
                print(said if says(said) else json.dumps(record, allow_nan=False))
                continue
            if writer is None:
                # With --top there are columns for all classes, too; most of them stay empty.
                writer = csv.DictWriter(sys.stdout, [name for name, _ in flat(line)], lineterminator="\n")
                writer.writeheader()
            writer.writerow(dict(flat(record)))
        sys.stdout.flush()


def likeliest(record: dict[str, Any], top: int) -> dict[str, Any]:
    """A line in which probabilities are those of the likeliest classes only.

    Raises:
        ConfigError: When the line has none.
    """
    tables = {key: value for key, value in record.items() if isinstance(value, dict)}
    if not tables:
        raise ConfigError(format_error("--top", "a run that tells classes apart", top))
    kept = {key: sorted(table, key=lambda name: -(table[name] or 0))[:top] for key, table in tables.items()}
    return {**record, **{key: {name: tables[key][name] for name in names} for key, names in kept.items()}}


def flat(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The cells of a line: a table within it has one column for each of its names, ``probabilities.cat``.

    A list has one for each of its places, ``outputs.0``.
    """
    for key, value in record.items():
        inside = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(inside, dict):
            yield from ((f"{key}.{name}", item) for name, item in inside.items())
        else:
            yield key, value
