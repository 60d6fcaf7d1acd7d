"""``dltrain evaluate RUN``: print the metrics of a run's checkpoint on one split of its data, or on other data."""

import argparse
import json
import os
from pathlib import Path

from dltrain.errors import ConfigError, format_error, suggest
from dltrain.loggers.console import Console
from dltrain.runs.job import open_run
from dltrain.runs.overridable import check_predict, names_other_data
from dltrain.storage.run_files import CHECKPOINTS


def main(arguments: argparse.Namespace, started: float) -> int:
    """Rebuild the model of a run, evaluate it and print the metrics."""
    path, job, changes = open_run(arguments.names[0], arguments.overrides)
    name = _checkpoint_file(path, arguments.checkpoint)
    check_predict(changes)
    job.set_environment()
    from dltrain.runs import report
    from dltrain.runs.classifier_features import attach_features
    from dltrain.runs.inference import load_to_evaluate

    console = Console()
    trained = load_to_evaluate(job, path, name, names_other_data(changes))
    attach_features(trained.components)
    if trained.others is not None and arguments.split is not None:
        raise ConfigError("--split: not supported for other data, because all of their examples are evaluated")
    split = "all" if trained.others is not None else arguments.split or "test"
    if trained.splits is not None and getattr(trained.splits, split) is None:
        expected = "test or train, because the run has no validation split"
        raise ConfigError(format_error("--split", expected, split))
    for note in trained.notes:
        console.warning(note)
    console.info(f"{path}: {name.removesuffix('.pt')} checkpoint, step {trained.step:,}")
    task, evaluation = trained.components.task, trained.evaluate(split, console)
    features = report.feature_source(task, evaluation)
    if arguments.json:
        source = {"folder": str(path), "checkpoint": name, "step": trained.step, "split": split}
        figures = {"metric": task.metric, "metrics": evaluation.metrics, "baselines": evaluation.baselines, **features}
        figures |= report.class_scores(evaluation)
        print(json.dumps(report.finite_or_none({**source, **figures}), indent=2, allow_nan=False))
        return 0
    report.print_metrics(console, evaluation.metrics, evaluation.baselines, split=split)
    for note in features.values():
        console.info(report.feature_note(note))
    return 0


def _checkpoint_file(path: Path, name: str) -> str:
    """Return the file name of the checkpoint `name`: ``best``, ``last`` or a file of the run."""
    if name in ("best", "last"):
        return f"{name}.pt"
    folder, file = path / CHECKPOINTS, Path(name)
    known = sorted(found.name for found in folder.glob("*.pt"))
    if file.name in known and (file.name == name or (os.path.exists(file) and file.samefile(folder / file.name))):
        return file.name
    hint = suggest(file.name, ["best", "last", *known]) or f"Checkpoints of the run: {' '.join(known) or 'none'}."
    raise ConfigError(format_error("--checkpoint", f"best, last or a file of {folder}", name, hint))
