"""Inspection of a job's data without training."""

from dltrain.config import instantiate
from dltrain.config.compose import Job
from dltrain.data.spec import Data, describe_data


def inspect_data(job: Job) -> list[str]:
    """Read the data of a job and return lines that describe how they were read."""
    data: Data = instantiate.build(job.resolved["data"], "data", job.allow)
    splits = data.load()
    facts = {"shape": data.spec.shape, "classes": data.spec.classes}
    facts["vocabulary"] = data.spec.tokens.size if data.spec.tokens else None
    parts = {"training": splits.train, "validation": splits.val, "test": splits.test}
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items() if part is not None)
    stated = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    return describe_data(data) or [f"splits: {sizes}", f"examples: {stated}"]
