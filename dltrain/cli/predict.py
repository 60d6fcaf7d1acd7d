"""``dltrain predict RUN INPUT ...``: print predictions of a run's model for new data, as JSON lines or CSV."""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dltrain.data.inputs import InputFiles, check_inputs
from dltrain.errors import ConfigError, DltrainError
from dltrain.loggers.console import Console
from dltrain.runs.job import open_run
from dltrain.runs.overridable import check_predict

if TYPE_CHECKING:
    from dltrain.tasks.base import Task


def main(arguments: argparse.Namespace, started: float) -> int:
    """Rebuild the model of a run and print its predictions."""
    run, *names = arguments.names
    path, job, changes = open_run(run, arguments.overrides)
    check_inputs(names)
    check_predict(changes)
    job.set_environment()
    from dltrain.runs.inference import check_reads_inputs, load_trained, rebuild_components
    from dltrain.runs.predicted_files import PredictedFiles

    written = PredictedFiles(arguments.out)
    try:
        components = rebuild_components(job, path)
        _check_predicts(components.task)
        check_reads_inputs(components)
        if arguments.explain and arguments.out is None and components.data.spec.tokens is None:
            raise ConfigError("--explain: not supported without --out FOLDER, where the images are written")
        trained = load_trained(components, path, f"{arguments.checkpoint}.pt")
        console = Console()
        console.info(f"{path}: {arguments.checkpoint} checkpoint, step {trained.step:,}")
        for note in trained.notes:
            console.warning(f"{path}: {note}")
        files = InputFiles(tuple(names), arguments.text, arguments.batch or 2 * trained.components.data.batch_size)
        _print_lines(map(written.store, trained.predict(files, arguments.explain)), arguments.format, arguments.top)
    except DltrainError:
        written.discard()
        raise
    return 0


def _check_predicts(task: "Task") -> None:
    """Reject a task without predictions."""
    from dltrain.tasks.base import Task

    if type(task).predict is Task.predict and type(task).predictions is Task.predictions:
        hint = "Use dltrain generate RUN; autoencoders and RBMs also reconstruct examples with --given INPUT."
        raise ConfigError(
            f"predict: not supported for the task {type(task).__name__}, which makes no predictions. {hint}"
        )


def _print_lines(lines: Iterable[dict[str, Any]], form: str, top: int | None) -> None:
    writer: csv.DictWriter[str] | None = None
    unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    for line in lines:
        record = line if top is None else _most_probable(line, top)
        if form == "jsonl":
            print(json.dumps(record, ensure_ascii=not unicode, allow_nan=False), flush=True)
            continue
        if any(isinstance(value, list) and value and isinstance(value[0], dict) for value in record.values()):
            reason = "the number of objects or words differs from line to line"
            raise ConfigError(f"--format csv: not supported because {reason}. Use the default, JSON lines.")
        if writer is None:  # with --top the header still has all classes; most of their cells stay empty
            writer = csv.DictWriter(sys.stdout, [name for name, _ in _cells(line)], lineterminator="\n")
            writer.writeheader()
        cells = dict(_cells(record))
        if more := [name for name in cells if name not in writer.fieldnames]:
            reason = f'the first prediction has no field "{more[0]}"'
            raise ConfigError(f"--format csv: not supported because {reason}. Use the default, JSON lines.")
        writer.writerow(cells)
        sys.stdout.flush()


def _most_probable(record: dict[str, Any], top: int) -> dict[str, Any]:
    tables = {key: value for key, value in record.items() if isinstance(value, dict)}
    if not tables:
        raise ConfigError("--top: not supported because this run predicts no probabilities")
    kept = {key: sorted(table, key=lambda name: -(table[name] or 0))[:top] for key, table in tables.items()}
    return {**record, **{key: {name: tables[key][name] for name in names} for key, names in kept.items()}}


def _cells(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each cell: ``probabilities.cat`` from a nested mapping, ``outputs.0`` from a list."""
    for key, value in record.items():
        nested = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(nested, dict):
            yield from ((f"{key}.{name}", item) for name, item in nested.items())
        else:
            yield key, value
