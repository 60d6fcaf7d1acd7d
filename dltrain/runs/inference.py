"""Load the trained model of a run, and the data that it needs, to evaluate it or to predict."""

import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from yaml import YAMLError

from dltrain import redaction
from dltrain.config import instantiate
from dltrain.config.compose import Job
from dltrain.data.fingerprint import fingerprint
from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batch, Batches
from dltrain.data.plans import FixedSize
from dltrain.data.spec import Data, Inputs, Source, Splits
from dltrain.errors import CheckpointError, ConfigError, format_error
from dltrain.loggers.console import Console
from dltrain.runs import provenance
from dltrain.runs.assemble import Components, build_components
from dltrain.runs.dry_run import build_batches, source_batches
from dltrain.runs.explanations import explained
from dltrain.storage import fitted, run_files, safe_read
from dltrain.storage.checkpoint_format import STATE_ERRORS, effective_weights
from dltrain.storage.checkpoints import Checkpoints
from dltrain.tasks.base import Evaluation, Line
from dltrain.training.device import Device
from dltrain.training.evaluation import run_in_eval_mode, with_progress

DOUBLE_FROM = 1e6  # floats of at least this magnitude keep 15 significant digits in JSON, others 9


@dataclass
class Trained:
    """A model with trained weights, and data for it."""

    components: Components  # the model in evaluation mode
    splits: Splits | None  # the data of the run; None if they are not loaded
    step: int  # optimizer steps of the checkpoint
    notes: tuple[str, ...] = ()
    others: Source | None = None  # all examples of other data, to evaluate instead of a split

    def predict(self, files: InputFiles, explain: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the predictions for a user's inputs, one by one.

        Args:
            explain: Whether to add explanations; see `explained`.

        Raises:
            ConfigError: An input cannot be read, or `Inputs.names` does not have one entry per prediction; the
                predictions for earlier inputs have been yielded.
        """
        prepare, plan = own_prepare(self.components), getattr(self.components.data, "plan", None)
        if self.splits is not None:
            prepare, plan = self.splits.test.prepare, self.splits.test.plan
        assert prepare is not None
        device, end = self.components.device, dict[str, Any]()
        for piece in user_inputs(self.components, files):
            in_order = plan if plan and plan.contiguous else FixedSize(getattr(self.components.data, "pad_multiple", 1))
            source = Source(piece.rows, prepare, plan=in_order)
            batches = Batches(source, files.batch_size, device.device, channels_last=device.channels_last)
            predictions = self.components.task.predictions(self.components.model, batches)
            lines = _without_gradients(explained(self.components, batches) if explain else predictions, device)
            for name, line in itertools.zip_longest(piece.names, lines, fillvalue=end):
                if name is end or line is end:
                    got = f"{'fewer' if name is end else 'more'} entries than predictions"
                    raise ConfigError(format_error("data", "one entry in Inputs.names per prediction", got))
                yield {**name, **json_values(line)}

    def evaluate(self, split: str, console: Console) -> Evaluation:
        """Return the metrics of `split` (``test``, ``val`` or ``train``, without augmentation), or of other data.

        For other data, baselines that are fitted to training examples are left out.
        """
        task, model = self.components.task, self.components.model
        run: dict[str, Batches] = {}
        if self.others is not None:
            batches = source_batches(self.components, self.others)
        elif self.splits is not None:
            run = build_batches(self.components, self.splits)
            batches = eval_batches(self.components, self.splits, split)
        try:
            if run:
                # Use the same batches as in training, so that the baselines are the same.
                task.fit_baselines(run["train"], run.get("val"))
            shown = with_progress(batches, console)
            shown = shown if self.others is None else _known_classes(shown, self.components)
            return run_in_eval_mode(task.evaluate, model, self.components.device, shown)
        finally:
            for each in (*run.values(), batches):
                each.close()


def _without_gradients(lines: Iterator[Line], device: Device) -> Iterator[Line]:
    """Yield lines, computed in inference mode and under autocast; neither is active while the caller runs."""
    while True:
        with torch.inference_mode(), device.autocast():
            line = next(lines, None)
        if line is None:
            return
        yield line


def user_inputs(components: Components, files: InputFiles) -> Iterator[Inputs]:
    """Return a user's inputs piece by piece, read by the data set of the run."""
    check_reads_inputs(components)
    return components.data.inputs(files)


def check_reads_inputs(components: Components) -> None:
    """Raise ConfigError if the data set of the run cannot read a user's inputs."""
    if not hasattr(components.data, "inputs"):
        raise ConfigError(f"INPUT: not supported because {type(components.data).__name__} has no method inputs(files)")


def rebuild_components(job: Job, path: Path | None = None) -> Components:
    """Return the components of a trained run, before its data are loaded.

    Args:
        path: Folder of the run, to build the data from their stored fitted state; None to build them from their files.
    """
    stored = None if path is None else fitted.load(path)
    with explain_missing_data():
        return build_components(job, stored)


def own_prepare(components: Components) -> nn.Module | None:
    """Return the module that prepares a user's inputs, or None if there is none or it must be fitted first.

    The run's data are not needed if nothing is fitted to them or if the fitted state is stored with the run.
    """
    needed = components.fitted is None and hasattr(components.data, "fit")
    return None if needed else getattr(components.data, "prepare", None)


def training_data(components: Components) -> Data:
    """Return the data of a run, ready to load: rebuilt from their files if they were built from the fitted state."""
    if components.fitted is None:
        return components.data
    return instantiate.build(components.config["data"], "data", components.allow)


def load_trained(components: Components, path: Path, name: str, reject_other_data: bool = False) -> Trained:
    """Return the trained model of a run.

    Args:
        path: The run's folder.
        name: The checkpoint: ``best.pt``, ``last.pt`` or a file in ``checkpoints/``.
        reject_other_data: Whether to load the data and raise ConfigError if the run was trained on other data. If
            false, data are loaded only if needed, and a difference is reported in `Trained.notes`.
    """
    if not reject_other_data and own_prepare(components) is not None:
        _check_class_names(components, path)
        return Trained(components, None, restore_weights(components, path, name))
    with explain_missing_data():
        splits = components.data.load()
    skipping = reject_other_data and components.config["data"].get("on_bad_sample") == "skip"
    others = ", ".join(provenance.changed_splits(path, fingerprint(splits), skipping))
    if others and reject_other_data:
        hint = "data.path= or data.root= sets the location of the run's data, or of other data to evaluate"
        other = f"For predictions on other data: dltrain predict {path} INPUT"
        expected = "the data that the run was trained on"
        raise ConfigError(format_error(f"data ({others})", expected, "other data", f"{hint}. {other}."))
    _check_class_names(components, path)
    scales = "; normalization, vocabulary and classes are fitted on the new data" * hasattr(components.data, "fit")
    notes = (f"data ({others}): not the data that the run was trained on{scales}",) if others else ()
    return Trained(components, splits, restore_weights(components, path, name), notes)


def load_to_evaluate(job: Job, path: Path, name: str, elsewhere: bool) -> Trained:
    """Return the trained model of a run with the run's own data, or with all examples of other data.

    Args:
        elsewhere: Whether an override changes the location of the data. The new location may hold other data, or the
            run's own data after a move.
    """
    try:
        return load_trained(rebuild_components(job), path, name, reject_other_data=True)
    except ConfigError:
        stored = fitted.load(path) if elsewhere else None
        if stored is None:
            raise
        components = build_components(job, stored)
        if not hasattr(components.data, "evaluation"):
            raise
    others = components.data.evaluation()
    where = next((job.resolved["data"][key] for key in ("path", "root") if job.resolved["data"].get(key)), "them")
    size = f"all {len(others):,} examples of {where} are evaluated"
    scales = "with the normalization, vocabulary and classes of the run"
    notes = (f"data: not the data that the run was trained on; {size}, {scales}",)
    return Trained(components, None, restore_weights(components, path, name), notes, others)


def _known_classes(batches: Iterable[Batch], components: Components) -> Iterator[Batch]:
    """Yield batches of other data; raise ConfigError for an example of a class that the run does not know (-1)."""
    for batch in batches:
        names = components.data.spec.class_names if components.asks_for_classes else None
        if names and (batch["targets"] < 0).any():
            raise ConfigError(format_error("data", f"classes known to the run: {' '.join(names)}", "another class"))
        yield batch


def _check_class_names(components: Components, path: Path) -> None:
    try:
        config = yaml.safe_load(safe_read.read_yaml_text(path / run_files.CONFIG))
    except (OSError, ValueError, YAMLError):
        return  # without config.yaml there is nothing to compare
    known, now = (safe_read.get_mapping(found, "task").get("class_names") for found in (config, components.config))
    if known and known != now and redaction.MASK not in str(known):
        expected = f"the classes of the run: {' '.join(map(str, known))}"
        raise ConfigError(format_error("data", expected, " ".join(map(str, now or ()))))


def eval_batches(components: Components, splits: Splits, split: str) -> Batches:
    """Return the batches of a split for evaluation: all examples, without augmentation."""
    source = getattr(splits, split)
    return source_batches(components, Source(source.rows, splits.test.prepare, plan=source.plan))


def restore_weights(components: Components, path: Path, name: str) -> int:
    """Load a checkpoint for evaluation, with averaged weights if it has them, and return its step."""
    saved = Checkpoints(path)
    try:
        state = saved.load(name)
    except CheckpointError as error:
        if not any(saved.path.glob("*.pt")):
            ways = f"Resume the run with dltrain resume {path}, or start it again with dltrain rerun {path}"
            raise CheckpointError(f"{path}: no checkpoint was written yet. {ways}") from None
        other = "best" if name != run_files.BEST else "last"
        there = (saved.path / saved.resolve(f"{other}.pt")).is_file()
        raise CheckpointError(
            *error.problems, *([f"Another checkpoint is available: --checkpoint {other}"] * there)
        ) from None
    try:
        components.model.load_state_dict(effective_weights(state))
        components.task.load_state_dict(state["task"])
    except STATE_ERRORS as error:
        reason = " ".join(map(str.strip, str(error).splitlines()[:2])) or type(error).__name__
        file = path / run_files.CHECKPOINTS / name
        raise CheckpointError(f"{file}: rejected because it does not fit this model: {reason}") from None
    components.model.eval()
    return state["loop"]["step"]


@contextmanager
def explain_missing_data() -> Iterator[None]:
    """Add a hint to errors about ``data`` keys: the run's own data are needed."""
    try:
        yield
    except ConfigError as error:
        if not any(line.startswith("data.") for line in error.problems):
            raise
        where = "data: The run's own data are needed; data.path=... or data.root=... sets their location."
        raise ConfigError(*error.problems, where) from error


def json_values(value: Any) -> Any:
    """Return nested values for JSON: NaN and Inf become None, and floats are rounded to 9 or 15 significant digits.

    Nine digits represent a float32 exactly. Floats with a magnitude of at least `DOUBLE_FROM` may be float64.
    """
    if isinstance(value, dict):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    if isinstance(value, float):
        digits = 9 if abs(value) < DOUBLE_FROM else 15
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
