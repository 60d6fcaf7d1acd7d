"""Build a run, load its data, and try one batch before training starts."""

import contextlib
import copy
import dataclasses
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from dltrain.config.compose import Job
from dltrain.data.bad_samples import BadSamples
from dltrain.data.fingerprint import fingerprint
from dltrain.data.loader import Batch, Batches
from dltrain.data.spec import Source, Splits, describe_data
from dltrain.data.worker_pool import TIMEOUT_S
from dltrain.errors import ConfigError, format_error
from dltrain.optim.kernels import bare_step
from dltrain.runs import classifier_features, initial_weights, provenance
from dltrain.runs.assemble import Components, build_components, memory_errors
from dltrain.storage.checkpoint_format import load_error
from dltrain.tasks.base import Loss, Turn
from dltrain.training import precision
from dltrain.training.device import DTYPES, Device, is_out_of_memory
from dltrain.training.learning import set_learning

# Exceptions for shapes or types that do not fit, and for missing kernels.
FAILURES = (RuntimeError, ValueError, IndexError, KeyError, TypeError)
FEW = 2  # examples that are enough to find shapes that do not fit


@contextlib.contextmanager
def prepare_run(
    job: Job, notes: Sequence[str] = (), resumed: Path | None = None, begun: Path | None = None
) -> Iterator[tuple[Components, dict[str, Batches]]]:
    """Yield a run's components and batches after a dry run; leaving the context stops the data loading workers.

    Args:
        job: The run's configuration.
        notes: Notes to add to the notes of the components.
        resumed: Folder of a run to resume. Its data must have the same fingerprint as at the start of the run.
        begun: Folder of a run that has a checkpoint, and therefore needs no initial weights.
    """
    components = build_components(job)
    components.loaded = initial_weights.prepare(components, job, begun)
    classifier_features.attach_features(components)
    components.notes = (*components.notes, *notes)
    if begun is None and components.loaded is not None:
        components.notes = (*components.notes, *components.loaded.describe())
    splits = components.data.load()
    if not isinstance(splits, Splits):
        raise ConfigError(format_error("data._target_", "Splits from load()", type(splits).__name__))
    components.fingerprint = fingerprint(splits)
    components.description = describe_data(components.data)
    fit = getattr(components.data, "fit", None)
    components.fitted = fit() if fit else None
    if resumed is not None:
        skipping = components.config["data"].get("on_bad_sample") == "skip"
        provenance.check_same_data(resumed, components.fingerprint, skipping)
    if begun is None and (check := getattr(components.data, "check", None)):
        check()
    if components.task.needs_targets and (note := components.task.fit_targets(training_targets(components, splits))):
        components.notes = (*components.notes, note)
    batches = build_batches(components, splits)
    if splits.val is not None and (sampled := batches["val"].examples) < (whole := len(splits.val)):
        limited = f"trainer.eval_examples: validation reads the same {sampled:,} of {whole:,} examples each time"
        components.notes = (*components.notes, limited)
    del splits  # frees host memory if the batches have copied the data to another device
    try:
        dry_run(components, batches, job)
        if begun is None and components.loaded is None and (fit := getattr(components.model, "fit_inputs", None)):
            components.notes = (*components.notes, fit(batch["inputs"] for batch in batches["train"]))
        if note := components.task.fit_baselines(batches["train"], batches.get("val")):
            components.notes = (*components.notes, note)
        yield components, batches
    finally:
        for split in batches.values():
            split.close()


def build_batches(components: Components, splits: Splits) -> dict[str, Batches]:
    """Return the batches of each split on the device, with at most ``trainer.eval_examples`` validation examples."""
    sample = components.config["trainer"]["eval_examples"]
    sources = {"train": splits.train, "test": splits.test, "val": splits.val, "unlabeled": splits.unlabeled}
    return {
        split: source_batches(components, source, split in ("train", "unlabeled"), sample if split == "val" else None)
        for split, source in sources.items()
        if source is not None
    }


def training_targets(components: Components, splits: Splits) -> Iterator[torch.Tensor]:
    """Yield the targets of all training examples; do not decode files if their targets are known."""
    known = getattr(splits.train.rows, "targets", None)
    if known is not None:
        yield known()
        return
    batches = source_batches(components, Source(splits.train.rows, splits.train.prepare, plan=splits.train.plan))
    try:
        yield from (batch["targets"] for batch in batches)
    finally:
        batches.close()


class NumbersAsTargets(nn.Module):
    """Module that prepares rows, with a column's numbers as ``targets`` even if they could be classes."""

    def __init__(self, prepare: nn.Module) -> None:
        super().__init__()
        self.prepare = prepare

    def forward(self, rows: Batch) -> Batch:
        """Return the prepared rows."""
        batch: Batch = self.prepare(rows)
        return {**batch, "targets": batch["values"]} if "values" in batch else batch


def _check_checkpointable(components: Components) -> None:
    """Raise ConfigError if the state of the model or the task holds an object that a checkpoint cannot store."""
    for group, state in (("model", components.model.state_dict()), ("task", components.task.state_dict())):
        for name, value in state.items():
            if not isinstance(value, torch.Tensor) and (reason := load_error(value)):
                key = f"{group} ({name} of its state_dict)"
                raise ConfigError(
                    format_error(key, "tensors and plain Python values", type(value).__name__, f"{reason}.")
                )


def source_batches(
    components: Components, source: Source, training: bool = False, sample: int | None = None
) -> Batches:
    """Return batches on the device; evaluation, which stores no activations, uses batches of twice the size."""
    data = components.data
    if training and source.blend is not None and not components.task.soft_targets:
        task = type(components.task).__name__
        raise ConfigError(f"augment.mixup augment.cutmix: not supported because {task} needs one class per example")
    if not components.asks_for_classes:
        source = dataclasses.replace(source, prepare=NumbersAsTargets(source.prepare))
    return Batches(
        source,
        data.batch_size if training else 2 * data.batch_size,
        device=components.device.device,
        seed=components.config["seed"],
        training=training,
        sample=sample,
        workers=data.workers,
        channels_last=components.device.channels_last,
        corrupt=components.task.corrupt,
        bad=getattr(data, "bad", None) or BadSamples(),
        timeout=getattr(data, "worker_timeout", TIMEOUT_S),
    )


@memory_errors()
def dry_run(components: Components, batches: dict[str, Batches], job: Job) -> None:
    """Compute the losses of a training batch and the metrics of a test batch, without updating the weights.

    Two examples are enough if all batches have the same shape or ``trainer.on_oom`` is ``shrink``. Otherwise, all
    examples of the widest batch are used, so that a shortage of memory is found before training; gradients are
    computed if there are more than two examples and the model is not compiled. The random state, the buffers of the
    model and the state of the task are restored afterwards.

    Raises:
        ConfigError: Model, task and data do not fit together, the optimizer cannot be used, the precision is not
            supported, batch normalization gets a batch of one example, or a state cannot be stored in a checkpoint.
        OutOfMemory: A batch needs too much memory.
    """
    components.task.begin(components.model)
    _check_checkpointable(components)
    task_state = copy.deepcopy(components.task.state_dict())
    model, buffers = components.model, {name: buffer.clone() for name, buffer in components.model.named_buffers()}
    learning = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    batch, held_out = (_trial_batch(batches[split], components.trainer.split_on_oom) for split in ("train", "test"))
    try:
        _check_optimizer(components)
        _check_batch_of_one(components, batches["train"], batch, held_out)
        _compute_losses(components, batch, held_out, components.device)
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise _explain(components, job, batch, held_out, error) from error
    finally:
        model.train()
        components.task.load_state_dict(task_state)
        for parameter, learns in learning:
            parameter.requires_grad_(learns)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def _trial_batch(batches: Batches, few: bool) -> Batch:
    """Return the widest batch, or two of its examples if `few` is true or all batches have the same shape."""
    batch = batches.widest()
    return {name: value[:FEW] for name, value in batch.items()} if few or batches.lengths is None else batch


def _check_optimizer(components: Components) -> None:
    """Raise ConfigError if the optimizer needs a closure or sparse gradients, as LBFGS and SparseAdam do."""
    weight = nn.Parameter(torch.ones(2, 2, device=components.device.device))
    weight.grad = torch.ones_like(weight)
    turn = Turn("trial", [weight], lambda batch, progress: Loss(weight.sum(), 1))
    optimizer = components.build_optimizer(turn, steps=1).optimizer
    try:
        bare_step(optimizer)()
    except FAILURES as error:
        failure = f"{type(optimizer).__name__} cannot take a step: {error}"
        raise ConfigError(f"optimizer._target_: not supported because {failure}") from error


def _compute_losses(components: Components, batch: Batch, held_out: Batch, device: Device) -> None:
    """Compute losses and held-out metrics.

    Gradients are also computed for more than `FEW` examples or if kernels may be missing, unless the model is compiled.
    """
    model, task = components.model, components.task
    cuda = [torch.cuda.current_device()] if device.device.type == "cuda" else []
    # Gradients need the most memory; `FEW` examples test only shapes.
    gradients = len(next(iter(batch.values()))) > FEW or precision.may_lack_kernels(device)
    with torch.random.fork_rng(devices=cuda), device.autocast():
        for stage in (stages := components.stages()):
            stage_batch = {"inputs": batch["inputs"]} if stage.data == "unlabeled" else batch
            set_learning(model, stage)
            for turn in stage.turns:
                components.build_optimizer(turn, steps=1)
                total = turn.loss(stage_batch, 0.0).total
                if gradients and not device.compile and total.requires_grad:
                    torch.autograd.grad(total, [p for p in turn.parameters if p.requires_grad], allow_unused=True)
        model.eval()
        with torch.no_grad():
            for goal in [stage.goal for stage in stages if stage.goal] + [task.goal]:
                goal.evaluate(model, [held_out])


def _explain(components: Components, job: Job, batch: Batch, held_out: Batch, error: Exception) -> ConfigError:
    """Return the error of a failed dry run: unsupported precision if fp32 works, otherwise shapes that do not fit."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, KeyError):
        first = f"{first} is missing."
    device = components.device
    if device.precision in DTYPES:
        with contextlib.suppress(*FAILURES):
            _compute_losses(components, batch, held_out, dataclasses.replace(device, precision="fp32"))
            owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
            modules = [type(owner).__name__ for owner in owners if isinstance(owner, nn.Module)]
            failing = modules[-1] if modules else "the loss"
            reason = f"this {device.device.type.upper()} cannot compute {failing} in {device.precision}"
            return ConfigError(f"device.precision: not supported because {reason}. Use device.precision=fp32. {first}")
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
    chosen = " ".join(f"{group}={job.choices[group]}" for group in ("model", "task", "data"))
    return ConfigError(f"{chosen}: not supported because these do not fit together. A batch has {shapes}. {first}")


def _check_batch_of_one(components: Components, batches: Batches, batch: Batch, held_out: Batch) -> None:
    """Raise ConfigError if batch normalization gets one value per channel from a batch of one example."""
    if 1 not in batches.sizes:
        return
    one = {name: value[:1] for name, value in batch.items()}
    try:
        _compute_losses(components, one, held_out, components.device)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        hint = "Batch normalization needs at least two examples in every batch."
        expected = f"a size that leaves no batch of one example ({batches.examples} training examples)"
        raise ConfigError(format_error("data.batch_size", expected, batches.batch_size, hint)) from error
