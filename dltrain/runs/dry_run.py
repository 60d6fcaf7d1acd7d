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
from dltrain.errors import ConfigError, problem
from dltrain.runs import classifier_features, provenance
from dltrain.runs.assemble import Parts, make, make_optimizer
from dltrain.storage.checkpoint_format import load_error


@contextlib.contextmanager
def built(job: Job, notes: Sequence[str] = (), begun: Path | None = None) -> Iterator[tuple[Parts, dict[str, Batches]]]:
    """Everything that a run is made of, rehearsed; worker processes end with it.

    Args:
        job: What to build.
        notes: What there is to say besides.
        begun: The folder of a run that goes on, or None.

    Raises:
        ConfigError: When something makes no sense, or the data are not those that the run began with.
    """
    parts = make(job)
    classifier_features.attach(parts, job.allow)
    parts.notes = (*parts.notes, *notes)
    splits = parts.data.load()
    parts.fingerprint = fingerprint(splits)
    if begun is not None:
        skipping = parts.config["data"].get("on_bad_sample") == "skip"
        provenance.refuse_other_data(begun, parts.fingerprint, skipping)
    batches = make_batches(parts, splits)
    del splits  # rows that now lie on another device need not stay here
    try:
        rehearse(parts, batches, job)
        yield parts, batches
    finally:
        for split in batches.values():
            split.close()


def make_batches(parts: Parts, splits: Splits) -> dict[str, Batches]:
    """The splits in batches on the device; evaluation takes larger batches, it keeps no gradients."""
    data = parts.data
    found = {
        "train": batches_of(parts, splits.train, data.batch_size, training=True),
        "test": batches_of(parts, splits.test, 2 * data.batch_size),
    }
    if splits.val is not None:
        found["val"] = batches_of(parts, splits.val, 2 * data.batch_size)
    if splits.unlabelled is not None:
        found["unlabelled"] = batches_of(parts, splits.unlabelled, data.batch_size, training=True)
    return found


def refuse_unreadable(parts: Parts) -> None:
    """A class of the user's own may keep something that no checkpoint gives back: say so before anything is trained.

    Raises:
        ConfigError: Naming it.
    """
    for group, state in (("model", parts.model.state_dict()), ("task", parts.task.state_dict())):
        for name, value in state.items():
            if not isinstance(value, torch.Tensor) and (reason := load_error(value)):
                kept = f"{group} (its state_dict, {name})"
                raise ConfigError(problem(kept, "tensors and plain Python", type(value).__name__, f"{reason}."))


def batches_of(parts: Parts, source: Source, batch_size: int, training: bool = False) -> Batches:
    """One split in batches on the device."""
    data = parts.data
    return Batches(
        source,
        batch_size,
        device=parts.device.device,
        seed=parts.config["seed"],
        training=training,
        workers=data.workers,
        channels_last=parts.device.channels_last,
        bad=getattr(data, "bad", None) or BadSamples(),
        timeout=getattr(data, "worker_timeout", TIMEOUT_S),
    )


def rehearse(parts: Parts, batches: dict[str, Batches], job: Job) -> None:
    """Two training examples and two to evaluate, without a step, so that what does not fit is said at once.

    Random numbers and running statistics are as before afterwards.

    Raises:
        ConfigError: Naming model, task, data and the shapes that do not fit, or what the optimizer refuses.
    """
    refuse_single(parts, batches["train"])
    refuse_unreadable(parts)
    model, kept = parts.model, {name: buffer.clone() for name, buffer in parts.model.named_buffers()}
    batch = {name: value[:2] for name, value in next(iter(batches["train"])).items()}
    held = {name: value[:2] for name, value in next(iter(batches["test"])).items()}
    try:
        cuda = [torch.cuda.current_device()] if parts.device.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), parts.device.autocast():
            for stage in (stages := parts.task.stages(model)):
                unknown = {"inputs": batch["inputs"]} if stage.data == "unlabelled" else batch
                for turn in stage.turns:
                    make_optimizer(job, parts, turn, steps=1)
                    turn.loss(unknown, 0.0)
            model.eval()
            with torch.no_grad():
                for goal in [stage.goal for stage in stages if stage.goal] + [parts.task.goal]:
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


def refuse_single(parts: Parts, batches: Batches) -> None:
    """Batch normalisation has no statistics of one example, which the last batch of an epoch may be.

    Raises:
        ConfigError: Naming the batch size.
    """
    alone = batches.examples % batches.batch_size == 1 or batches.batch_size == 1
    if alone and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in parts.model.modules()):
        expected = f"a size that leaves no batch of one of {batches.examples} examples to the batch norm"
        raise ConfigError(problem("data.batch_size", expected, batches.batch_size))
