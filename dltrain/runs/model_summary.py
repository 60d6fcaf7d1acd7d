"""Summarize a job's model, built on the meta device for the job's data or for a given input shape."""

import functools
import math
from collections.abc import Iterable
from typing import Any

import torch

from dltrain.config import instantiate
from dltrain.config.compose import Job
from dltrain.data.spec import Clip, Data, Spec
from dltrain.data.tokens import Tokens
from dltrain.errors import ConfigError, enumerate_names, format_error
from dltrain.profiling.summary import Summary, summarize
from dltrain.runs.assemble import build_model, build_task, memory_errors
from dltrain.runs.compatibility import find_missing, matching_data, task_facts
from dltrain.tasks.model_call import call_model, example_inputs


@memory_errors()
def summarize_job(job: Job, shape: tuple[int, ...] | None, outputs: int | None) -> Summary:
    """Return the summary of the model and of a training step.

    Args:
        job: The configuration.
        shape: Shape of one example. If ``shape`` or ``outputs`` is None, the job's data are used.
        outputs: Number of outputs; for text, the vocabulary size.
    """
    if shape is None or outputs is None:
        data: Data = instantiate.build(job.resolved["data"], "data", job.allow)
        task, facts = build_task(job, data.spec)
        batch = task.example(vars(data.spec), data.batch_size)
    else:
        facts = _shape_facts(job, shape, outputs)
        batch = example_inputs(facts, job.resolved["data"].get("batch_size", 1))
    build = functools.partial(build_model, job, facts)
    return summarize(build, batch, _optimizer_states(job), call_model)


def _shape_facts(job: Job, shape: tuple[int, ...], outputs: int) -> dict[str, Any]:
    needed = instantiate.required_facts(job.resolved["model"], "model", job.allow)
    is_text = not {"tokens.size", "target_tokens.size"}.isdisjoint(needed)
    if is_text:
        if len(shape) > 1:
            expected = f"a number of tokens for model={job.choices['model']}, such as 64"
            raise ConfigError(format_error("--input", expected, "x".join(map(str, shape))))
        tokens = Tokens(outputs)
        spec = Spec(shape=shape, length=shape[0], tokens=tokens, target_tokens=tokens, features=outputs)
    else:
        axes: dict[str, Any] = {}
        if len(shape) == 3:  # an image
            axes = dict(zip(("channels", "height", "width"), shape, strict=True))
            axes |= {"features": axes["channels"] * axes["width"], "length": axes["height"]}
        elif len(shape) == 4:  # a clip: channels, frames, height, width
            axes = {"clip": Clip(*shape)}
        elif len(shape) == 2:  # a series
            axes = {"length": shape[0], "features": shape[1], "columns": shape[1]}
        spec = Spec(shape=shape, size=math.prod(shape), **axes)
    facts = vars(spec) | {"outputs": outputs, "each_step": is_text, "causal": is_text}
    if set(needed) & task_facts(job) - facts.keys():  # spec values that only the model's own task provides
        if find_missing(job, "task", vars(spec))[1]:
            raise _unsuitable(job, shape, "its task needs spec values that only data provide", "Use", needed)
        facts = {**build_task(job, spec)[1], **facts}
    if missing := find_missing(job, "model", facts)[1]:
        raise _unsuitable(
            job,
            shape,
            f"it needs {enumerate_names(missing)}, which this shape does not have",
            "Use another shape, or",
            needed,
        )
    return facts


def _unsuitable(job: Job, shape: tuple[int, ...], reason: str, use: str, needed: Iterable[str]) -> ConfigError:
    """Return the error for a shape that does not determine the spec values that a model needs."""
    model, hint = f"model={job.choices['model']}", f"{use} data that fit: {matching_data(job, 'model', needed)}"
    return ConfigError(f"--input {'x'.join(map(str, shape))}: not supported for {model} because {reason}. {hint}.")


def _optimizer_states(job: Job) -> int:
    """Return the number of values that the optimizer stores per parameter, measured by a step on a 2x2 matrix."""
    node = dict(job.resolved["optimizer"])
    node.pop("schedule")
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = instantiate.partial(node, "optimizer", job.allow)([{"params": [weight]}])
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    state = optimizer.state_dict()
    parts = [state] if "state" in state else state["parts"]
    return sum(value.numel() == 4 for part in parts for values in part["state"].values() for value in values.values())
