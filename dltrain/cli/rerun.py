"""``dltrain rerun RUN``: repeat a run in a new folder and list the differences from the original run."""

import argparse

from dltrain.config.compose import default_root
from dltrain.config.revise import RUN_DIR
from dltrain.loggers.console import Console
from dltrain.runs.job import open_run
from dltrain.runs.provenance import Origin
from dltrain.storage.folder_checks import check_available


def main(arguments: argparse.Namespace, started: float) -> int:
    """Read the run folder and train with its configuration in a new folder."""
    path, job, changes = open_run(arguments.names[0], arguments.overrides)
    changes.pop(RUN_DIR, None)
    check_available(job.run_dir, default_root())
    console = Console()
    console.info(f"{job.title()} (rerun)")
    job.set_environment()
    from dltrain.runs.launch import train

    return train(job, console, started, origin=Origin(path, changes)).exit_code
