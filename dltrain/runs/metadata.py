"""The files that say what a run is: its job, configuration, command and environment."""

import shlex
from typing import Any

import torch

from dltrain import redaction
from dltrain.config.compose import Job
from dltrain.config.interpolation import to_yaml
from dltrain.runs import provenance
from dltrain.runs.assemble import Components
from dltrain.runs.job import dump_job
from dltrain.storage import run_dir, run_files


def save_metadata(home: run_dir.RunDir, job: Job, components: Components, resumed: bool) -> None:
    """Write the files that say what a run is; a resumed run keeps the environment in which it began."""
    home.write(run_files.JOB, dump_job(job))  # first: from here on the run can be resumed
    home.write(run_files.CONFIG, to_yaml(redaction.mask(components.config)))
    home.write(run_files.COMMAND, command_line(job) + "\n")
    if not resumed:
        home.write_json(run_files.ENVIRONMENT, describe_environment(job, components))


def command_line(job: Job) -> str:
    """Return the command that repeats a run, secrets masked."""
    dirs = [word for name in job.config_dirs for word in ("--config-dir", redaction.redact(name))]
    return shlex.join(["dltrain", *dirs, *map(redaction.mask_override, job.overrides)])


def describe_environment(job: Job, components: Components) -> dict[str, Any]:
    """Return what ``environment.json`` holds: what a table of runs shows, and what results depend on."""
    return {
        "choices": job.choices,
        "metric": {"name": components.task.metric, "better": components.task.better},
        **provenance.describe_platform(components.device.describe()),
        "processor": f"{provenance.processor_name()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "code": provenance.code_fingerprint(job.allow),
        "data": components.fingerprint,
    }
