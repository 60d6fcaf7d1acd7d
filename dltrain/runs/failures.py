"""What a run says when it ends before its time: what went wrong, and what a user may do now."""

import shlex
import shutil
from pathlib import Path

from dltrain.runs.assemble import Components
from dltrain.storage.checkpoints import Checkpoints
from dltrain.training.device import peak_memory_mb


def next_steps(state: str, run: Path, checkpoints: Checkpoints) -> list[str]:
    """Where the run lies, where it stands, and the command that goes on."""
    lines, place = [f"The run lies in {run}"], shlex.quote(str(run))
    if steps := [entry["step"] for entry in checkpoints.read_manifest().values()]:
        lines.append(f"Its last checkpoint is that of step {max(steps)}.")
    ways = {
        "diverged": f"A new run with a lower rate: dltrain rerun {place} optimizer.lr=...",
        "out_of_memory": f"Go on with: dltrain resume {place} trainer.on_oom=shrink",
    }
    return [*lines, ways.get(state, f"Go on with: dltrain resume {place}")]


def describe_out_of_memory(error: BaseException, components: Components) -> str:
    """How much memory was asked for, and what asks for less."""
    trainer, size = components.config["trainer"], components.data.batch_size
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    half = f"data.batch_size={max(1, size // 2)} trainer.accumulate={2 * trainer['accumulate']}"
    return (
        f"{first}. Batches of {size}, at most {peak_memory_mb(components.device.device):,.0f} MB in use. "
        f"Try {half} (a step stays the same), trainer.on_oom=shrink (dltrain does that itself), "
        "device.precision=bf16, or a smaller model"
    )


def describe_write_error(error: OSError, run: Path, checkpoints: Checkpoints) -> str:
    """What could not be written, and what the disk says."""
    if not run.is_dir():
        return f"the run's folder is gone: {run}"
    free = shutil.disk_usage(run).free / 1e6
    sizes = [entry["bytes"] for entry in checkpoints.read_manifest().values() if "bytes" in entry]
    needed = f", a checkpoint takes {max(sizes) / 1e6:,.1f} MB" if sizes else ""
    return f"could not write: {error.strerror or error}: {error.filename or run}; {free:,.0f} MB are free there{needed}"
