"""Inspection of a job's data without training."""

import contextlib
from collections.abc import Iterator

from dltrain.config import instantiate
from dltrain.config.compose import Job
from dltrain.data.spec import Data, describe_data
from dltrain.errors import ConfigError


def inspect_data(job: Job) -> Iterator[str]:
    """Read the data of a job and yield lines that describe how they were read.

    Raises:
        ConfigError: The data are rejected. Lines that describe the file, if there are any, are yielded first.
    """
    try:
        yield from _describe(instantiate.build(job.resolved["data"], "data", job.allow))
    except ConfigError:
        with contextlib.suppress(ConfigError):
            yield from _describe_file(job)
        raise


def _describe(data: Data) -> list[str]:
    splits = data.load()
    facts = {"shape": data.spec.shape, "classes": data.spec.classes}
    facts["vocabulary"] = data.spec.tokens.size if data.spec.tokens else None
    parts = {"training": splits.train, "validation": splits.val, "test": splits.test}
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if part is not None)
    stated = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    return describe_data(data) or [f"splits: {sizes}", f"examples: {stated}"]


def _describe_file(job: Job) -> list[str]:
    """Return the description of a file from `describe_file` of the data class, if it has this method."""
    node = job.resolved["data"]
    describe = getattr(instantiate.find_target(node.get("_target_"), "data", job.allow), "describe_file", None)
    return describe(**node) if describe and node.get("path") else []
