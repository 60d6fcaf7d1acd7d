"""``dltrain rerun RUN``: a new run of what an earlier one was, after saying what differs between then and now."""

from dltrain.cli.main import Command, one_run
from dltrain.config import compose
from dltrain.config.revise import RUN_DIR, revise_job
from dltrain.loggers.console import Console
from dltrain.runs import job as stored
from dltrain.runs.provenance import Origin
from dltrain.storage import folder_checks

USAGE = """\
dltrain rerun RUN [GROUP=OPTION ...] [KEY=VALUE ...]

Begins anew what a run was, in a folder of its own, which hydra.run.dir= may name. RUN is a run's folder, or latest; it
is left as it is. First it lists what differs between then and now: keys changed on this line, versions of Python and
of packages, processor, device, threads, commit, source code and data. When nothing does, the new run's checkpoints
have the same bytes (on CUDA with device.deterministic=true).

GROUP=OPTION takes the whole of a group; all else stays as the run had it, whatever the YAML says today.

  dltrain rerun latest
  dltrain rerun outputs/lstm-timeseries/20261122-170146-f8f5 seed=1 optimizer.lr=3e-4
"""


def main(command: Command, started: float) -> int:
    """Read the folder, say what is changed, train."""
    if {"--help", "-h"} & set(command.rest):
        print(USAGE)
        return 0
    path, typed, allow = one_run(command)
    job, changed = revise_job(stored.load_job(path, allow), typed)
    changed.pop(RUN_DIR, None)
    folder_checks.check_available(job.run_dir, compose.default_root())
    console = Console()
    console.info(f"{job.title()} (again)")
    job.ready()
    from dltrain.runs.launch import train

    return train(job, console, started, origin=Origin(path, changed)).exit_code
