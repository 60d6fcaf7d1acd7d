"""Messages of runs that end early: what went wrong, and how to continue."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dltrain.runs.assemble import Components
from dltrain.storage.checkpoints import Checkpoints
from dltrain.training.device import peak_memory_mb

SLURM_JOB = "SLURM_JOB_ID"  # environment variable
SLURM_TIMEOUT_S = 30


def next_steps(state: str, run: Path, checkpoints: Checkpoints, allow: Sequence[str] = ()) -> list[str]:
    """Return lines with the run folder, the last checkpoint, and a command to resume or rerun.

    Args:
        allow: Value of ``allow_targets`` in the command.
    """
    lines, folder = [f"Run folder: {run}"], shlex.quote(str(run))
    trust = f" 'allow_targets=[{','.join(allow)}]'" if allow else ""
    if steps := [entry["step"] for entry in checkpoints.read_manifest().values()]:
        lines.append(f"Last checkpoint: step {max(steps)}")
    commands = {
        "diverged": f"Start again with a lower learning rate: dltrain rerun {folder} optimizer.lr=...{trust}",
        "out_of_memory": f"Resume with: dltrain resume {folder} trainer.on_oom=shrink{trust}",
    }
    return [*lines, commands.get(state, f"Resume with: dltrain resume {folder}{trust}")]


def describe_out_of_memory(error: BaseException, components: Components) -> str:
    """Return the error, the peak memory, and settings that need less memory."""
    trainer, spec = components.config["trainer"], components.data.spec
    limit = components.config["data"].get("max_tokens")
    key, size = ("max_tokens", limit) if limit else ("batch_size", components.data.batch_size)
    smallest = max(spec.length or 1, spec.target_length or 1) if limit else 1
    used = f"data.max_tokens={limit}" if limit else f"Batch size {size}"
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    half = f"data.{key}={size // 2} trainer.accumulate={2 * trainer['accumulate']}"
    same = "nearly the same" if limit or size % 2 else "the same"
    settings = {
        f"{half} ({same} effective batch size), ": size // 2 >= smallest,
        "trainer.on_oom=shrink (splits batches automatically), ": size > 1 and trainer["on_oom"] != "shrink",
        "device.precision=bf16, ": components.device.precision in ("fp32", "tf32"),
    }
    hints = "".join(setting for setting, helps in settings.items() if helps)
    return (
        f"{first}. {used}, peak memory {peak_memory_mb(components.device.device):,.0f} MiB. "
        f"Try {hints}{'or ' if hints else ''}a smaller model"
    )


def describe_write_error(error: OSError, run: Path, checkpoints: Checkpoints) -> str:
    """Return what could not be written, the free space, and the size of the largest checkpoint."""
    if not run.is_dir():
        return f"the run folder was removed: {run}"
    free = shutil.disk_usage(run).free / 1e6
    sizes = [entry["bytes"] for entry in checkpoints.read_manifest().values() if "bytes" in entry]
    needed = f", a checkpoint takes {max(sizes) / 1e6:,.1f} MB" if sizes else ""
    return f"could not write: {error.strerror or error}: {error.filename or run}; {free:,.0f} MB are free there{needed}"


def requeue() -> str:
    """Requeue this process's Slurm job, and return a message."""
    job = os.environ.get(SLURM_JOB, "")
    call = ["scontrol", "requeue", job]
    try:
        subprocess.run(call, stdin=subprocess.DEVNULL, capture_output=True, timeout=SLURM_TIMEOUT_S, check=True)
    except subprocess.CalledProcessError as error:
        return f"scontrol requeue {job} failed: {error.stderr.decode(errors='replace').strip()}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"scontrol requeue {job} failed: {error}"
    return f"requeued Slurm job {job}"
