"""Everything that a run is made of, its data read and rehearsed, before anything is trained."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from dltrain.config.compose import Job
from dltrain.data.bad_samples import BadSamples
from dltrain.data.fingerprint import fingerprint
from dltrain.data.loader import Batches
from dltrain.data.spec import Source, Splits
from dltrain.data.worker_pool import TIMEOUT_S
from dltrain.errors import ConfigError, format_error
from dltrain.runs import classifier_features, provenance
from dltrain.runs.assemble import Components, build_components
from dltrain.storage.checkpoints import unreadable


@contextlib.contextmanager
def prepare_run(
    job: Job, notes: Sequence[str] = (), begun: Path | None = None
) -> Iterator[tuple[Components, dict[str, Batches]]]:
    """Everything that a run is made of, rehearsed; worker processes end with it.

    Args:
        job: What to build.
        notes: What there is to say besides.
        begun: The folder of a run that goes on, or None.

    Raises:
        ConfigError: When something makes no sense, or the data are not those that the run began with.
    """
    components = build_components(job)
    classifier_features.attach_features(components, job.allow)
    components.notes = (*components.notes, *notes)
    splits = components.data.load()
    components.fingerprint = fingerprint(splits)
    if begun is not None:
        skipping = components.config["data"].get("on_bad_sample") == "skip"
        provenance.check_same_data(begun, components.fingerprint, skipping)
    batches = build_batches(components, splits)
    del splits  # rows that now lie on another device need not stay here
    try:
        dry_run(components, batches, job)
        yield components, batches
    finally:
        for split in batches.values():
            split.close()


def build_batches(components: Components, splits: Splits) -> dict[str, Batches]:
    """The splits in batches on the device; evaluation takes larger batches, it keeps no gradients."""
    data = components.data
    found = {
        "train": source_batches(components, splits.train, data.batch_size, training=True),
        "test": source_batches(components, splits.test, 2 * data.batch_size),
    }
    if splits.val is not None:
        found["val"] = source_batches(components, splits.val, 2 * data.batch_size)
    if splits.unlabelled is not None:
        found["unlabelled"] = source_batches(components, splits.unlabelled, data.batch_size, training=True)
    return found


def check_checkpointable(components: Components) -> None:
    """A class of the user's own may keep something that no checkpoint gives back: say so before anything is trained.

    Raises:
        ConfigError: Naming it.
    """
    for group, state in (("model", components.model.state_dict()), ("task", components.task.state_dict())):
        for name, value in state.items():
            if not isinstance(value, torch.Tensor) and (reason := unreadable(value)):
                kept = f"{group} (its state_dict, {name})"
                raise ConfigError(format_error(kept, "tensors and plain Python", type(value).__name__, f"{reason}."))


def source_batches(components: Components, source: Source, batch_size: int, training: bool = False) -> Batches:
    """One split in batches on the device."""
    data = components.data
    return Batches(
        source,
        batch_size,
        device=components.device.device,
        seed=components.config["seed"],
        training=training,
        workers=data.workers,
        channels_last=components.device.channels_last,
        bad=getattr(data, "bad", None) or BadSamples(),
        timeout=getattr(data, "worker_timeout", TIMEOUT_S),
    )


def dry_run(components: Components, batches: dict[str, Batches], job: Job) -> None:
    """Two training examples and two to evaluate, without a step, so that what does not fit is said at once.

    Random numbers and running statistics are as before afterwards.

    Raises:
        ConfigError: Naming model, task, data and the shapes that do not fit, or what the optimizer refuses.
    """
    check_batch_norm(components, batches["train"])
    check_checkpointable(components)
    model, kept = components.model, {name: buffer.clone() for name, buffer in components.model.named_buffers()}
    batch = {name: value[:2] for name, value in next(iter(batches["train"])).items()}
    held = {name: value[:2] for name, value in next(iter(batches["test"])).items()}
    try:
        cuda = [torch.cuda.current_device()] if components.device.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), components.device.autocast():
            for stage in (stages := components.task.stages(model)):
                unknown = {"inputs": batch["inputs"]} if stage.data == "unlabelled" else batch
                for turn in stage.turns:
                    components.build_optimizer(turn, steps=1)
                    turn.loss(unknown, 0.0)
            model.eval()
            with torch.no_grad():
                for goal in [stage.goal for stage in stages if stage.goal] + [components.task.goal]:
                    goal.evaluate(model, [held])
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
        chosen = " ".join(f"{group}={job.choices[group]}" for group in ("model", "task", "data"))
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{chosen}: these do not fit together. Two examples are: {shapes}. {first}") from error
    finally:
        model.train()
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])


def check_batch_norm(components: Components, batches: Batches) -> None:
    """Batch normalisation has no statistics of one example, which the last batch of an epoch may be.

    Raises:
        ConfigError: Naming the batch size.
    """
    alone = batches.examples % batches.batch_size == 1 or batches.batch_size == 1
    if alone and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in components.model.modules()):
        expected = f"a size that leaves no batch of one of {batches.examples} examples to the batch norm"
        raise ConfigError(format_error("data.batch_size", expected, batches.batch_size))
