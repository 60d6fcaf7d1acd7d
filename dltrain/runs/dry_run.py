"""Build a run, load its data, and try one batch before anything is trained."""

import contextlib
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
from dltrain.data.spec import Source, Splits
from dltrain.data.worker_pool import TIMEOUT_S
from dltrain.errors import ConfigError, format_error
from dltrain.optim.kernels import bare_step
from dltrain.runs import classifier_features, provenance
from dltrain.runs.assemble import Components, build_components, memory_errors
from dltrain.storage.checkpoint_format import load_error
from dltrain.tasks.base import Loss, Turn
from dltrain.training import precision
from dltrain.training.device import DTYPES, Device, is_out_of_memory

FAILURES = (RuntimeError, ValueError, IndexError, KeyError, TypeError)  # of shapes, types or kernels


@contextlib.contextmanager
def prepare_run(
    job: Job, notes: Sequence[str] = (), resumed: Path | None = None
) -> Iterator[tuple[Components, dict[str, Batches]]]:
    """Yield a run's components and batches after a dry run; data loading workers end with the context.

    The data of a `resumed` run must be those that it began with.
    """
    components = build_components(job)
    classifier_features.attach_features(components)
    components.notes = (*components.notes, *notes)
    splits = components.data.load()
    components.fingerprint = fingerprint(splits)
    if resumed is not None:
        skipping = components.config["data"].get("on_bad_sample") == "skip"
        provenance.check_same_data(resumed, components.fingerprint, skipping)
    batches = build_batches(components, splits)
    del splits  # the batches may have copied them to another device
    try:
        dry_run(components, batches, job)
        if note := components.task.fit_baselines(batches["train"], batches.get("val")):
            components.notes = (*components.notes, note)
        yield components, batches
    finally:
        for split in batches.values():
            split.close()


def build_batches(components: Components, splits: Splits) -> dict[str, Batches]:
    """Return split -> batches on the device."""
    sources = {"train": splits.train, "test": splits.test, "val": splits.val, "unlabelled": splits.unlabelled}
    return {
        split: source_batches(components, source, training=split in ("train", "unlabelled"))
        for split, source in sources.items()
        if source is not None
    }


def _check_checkpointable(components: Components) -> None:
    """Refuse a model or task of the user's own whose state a checkpoint cannot hold."""
    for group, state in (("model", components.model.state_dict()), ("task", components.task.state_dict())):
        for name, value in state.items():
            if not isinstance(value, torch.Tensor) and (reason := load_error(value)):
                kept = f"{group} (its state_dict, {name})"
                raise ConfigError(format_error(kept, "tensors and plain Python", type(value).__name__, f"{reason}."))


def source_batches(components: Components, source: Source, training: bool = False) -> Batches:
    """Return batches on the device; evaluation keeps no gradients, so its batches are twice as large."""
    data = components.data
    return Batches(
        source,
        data.batch_size if training else 2 * data.batch_size,
        device=components.device.device,
        seed=components.config["seed"],
        training=training,
        workers=data.workers,
        channels_last=components.device.channels_last,
        bad=getattr(data, "bad", None) or BadSamples(),
        timeout=getattr(data, "worker_timeout", TIMEOUT_S),
    )


@memory_errors()
def dry_run(components: Components, batches: dict[str, Batches], job: Job) -> None:
    """Compute the losses of two training examples and the metrics of two test examples, without an optimizer step.

    The random state and the buffers of the model are restored afterwards.

    Raises:
        ConfigError: When model, task and data do not fit, with the shapes, or when the optimizer refuses its arguments.
    """
    _check_batch_norm(components, batches["train"])
    _check_checkpointable(components)
    model, kept = components.model, {name: buffer.clone() for name, buffer in components.model.named_buffers()}
    batch = {name: value[:2] for name, value in next(iter(batches["train"])).items()}
    held = {name: value[:2] for name, value in next(iter(batches["test"])).items()}
    try:
        _check_optimizer(components)
        _compute_losses(components, batch, held, components.device)
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise _explain(components, job, batch, held, error) from error
    finally:
        model.train()
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])


def _check_optimizer(components: Components) -> None:
    """Refuse an optimizer that cannot step from dense gradients alone: LBFGS, SparseAdam."""
    weight = nn.Parameter(torch.ones(2, 2, device=components.device.device))
    weight.grad = torch.ones_like(weight)
    turn = Turn("trial", [weight], lambda batch, progress: Loss(weight.sum(), 1))
    optimizer = components.build_optimizer(turn, steps=1).optimizer
    try:
        bare_step(optimizer)()
    except FAILURES as error:
        failure = f"{type(optimizer).__name__} cannot take a step: {error}"
        raise ConfigError(f"optimizer._target_: not supported because {failure}") from error


def _compute_losses(components: Components, batch: Batch, held: Batch, device: Device) -> None:
    """Compute the losses of a training batch and the metrics of a held-out one, in a lower precision also gradients."""
    model, task = components.model, components.task
    cuda = [torch.cuda.current_device()] if device.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), device.autocast():
        for stage in (stages := task.stages(model)):
            unknown = {"inputs": batch["inputs"]} if stage.data == "unlabelled" else batch
            for turn in stage.turns:
                components.build_optimizer(turn, steps=1)
                total = turn.loss(unknown, 0.0).total
                if precision.may_lack_kernels(device) and not device.compile and total.requires_grad:
                    torch.autograd.grad(total, [p for p in turn.parameters if p.requires_grad], allow_unused=True)
        model.eval()
        with torch.no_grad():
            for goal in [stage.goal for stage in stages if stage.goal] + [task.goal]:
                goal.evaluate(model, [held])
    model.train()


def _explain(components: Components, job: Job, batch: Batch, held: Batch, error: Exception) -> ConfigError:
    """Return why losses cannot be computed: because of the precision, if fp32 works, or of shapes that do not fit."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    device = components.device
    if device.precision in DTYPES:
        components.model.train()
        with contextlib.suppress(*FAILURES):
            _compute_losses(components, batch, held, dataclasses.replace(device, precision="fp32"))
            owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
            modules = [type(owner).__name__ for owner in owners if isinstance(owner, nn.Module)]
            failing = modules[-1] if modules else "the loss"
            lacking = f"this {device.device.type.upper()} cannot compute {failing} in {device.precision}"
            return ConfigError(f"device.precision: not supported because {lacking}. Use device.precision=fp32. {first}")
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
    chosen = " ".join(f"{group}={job.choices[group]}" for group in ("model", "task", "data"))
    return ConfigError(f"{chosen}: these do not fit together. Two examples are: {shapes}. {first}")


def _check_batch_norm(components: Components, batches: Batches) -> None:
    """Refuse a last batch of one example, for which batch normalization has no statistics."""
    alone = batches.examples % batches.batch_size == 1 or batches.batch_size == 1
    if alone and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in components.model.modules()):
        expected = f"a size that leaves no batch of one example (of {batches.examples}), for batch normalization"
        raise ConfigError(format_error("data.batch_size", expected, batches.batch_size))
