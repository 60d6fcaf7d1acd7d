"""``dltrain GROUP=OPTION KEY=VALUE``: train and evaluate a model; with ``-m`` run a sweep."""

import argparse

from dltrain.cli.resume import resume_run
from dltrain.config.compose import compose, default_root, expand
from dltrain.config.older import without_newer_keys
from dltrain.config.revise import config_differences
from dltrain.loggers.console import Console
from dltrain.runs.job import load_job, previous_run
from dltrain.storage.folder_checks import check_available


def main(arguments: argparse.Namespace, started: float) -> int:
    """Compose the configuration, then import torch and run the sweep or the job, or resume the job's earlier run."""
    console, config_dirs = Console(), tuple(arguments.config_dir)
    if arguments.multirun:
        jobs = expand(arguments.overrides, config_dirs)
        for job in jobs:
            job.set_environment()
        from dltrain.sweeps.sweep import run_sweep

        return run_sweep(jobs, console, arguments.overrides)
    job = compose(arguments.overrides, config_dirs)
    if job.resolved["trainer"]["resume"] == "auto" and (path := previous_run(job)) is not None:
        stored = load_job(path, job.allow)
        job = without_newer_keys(job, stored)
        changes = config_differences(stored.config, job.config)
        return resume_run(job, path, changes, console, started)
    check_available(job.run_dir, default_root())
    console.info(job.title())
    job.set_environment()
    from dltrain.runs.launch import train

    return train(job, console, started).exit_code
