"""Put the Slurm job of this process back into the queue."""

import os
import subprocess

JOB_ID = "SLURM_JOB_ID"
TIMEOUT_S = 30


def in_job() -> bool:
    """Return whether this process belongs to a Slurm job."""
    return bool(os.environ.get(JOB_ID))


def requeue() -> str:
    """Ask Slurm to run this job again, and return what it answered."""
    job = os.environ.get(JOB_ID, "")
    try:
        subprocess.run(
            ["scontrol", "requeue", job], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=True
        )
    except subprocess.CalledProcessError as error:
        return f"scontrol requeue {job} failed: {error.stderr.decode(errors='replace').strip()}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"scontrol requeue {job} failed: {error}"
    return f"requeued Slurm job {job}"
