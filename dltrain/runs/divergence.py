"""Repeat the steps before a divergence to find the first NaN or Inf."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dltrain.config.compose import Job
from dltrain.data.loader import Batches
from dltrain.loggers.console import Console
from dltrain.runs.assemble import Components
from dltrain.runs.dry_run import prepare_run
from dltrain.runs.restore import newest_checkpoint
from dltrain.training import nan_trace
from dltrain.training.checkpointing import Diverged
from dltrain.training.loop import Loop
from dltrain.training.signals import Stopped


def trace_divergence(
    diverged: Diverged,
    job: Job,
    run: Path,
    noticed: int,
    build_loop: Callable[[Components, dict[str, Batches]], Loop],
    console: Console,
) -> tuple[str, dict[str, Any]]:
    """Repeat a run from its newest checkpoint to the step at which it was found to have diverged.

    Args:
        noticed: That step.
        build_loop: Returns a loop over fresh components.

    Returns:
        The cause in a sentence, and the content of ``nan_report.json``, empty when the cause was not found.
    """
    try:
        saved, _ = newest_checkpoint(run)
        console.info(f"{diverged}; repeating from step {saved.step if saved else 0} to find the cause")
        with prepare_run(job) as (components, batches):
            loop = build_loop(components, batches)
            if saved:
                loop.load_state_dict(saved.content, {})
            report = nan_trace.trace(loop, noticed)
    except Exception as error:  # a failed search must not hide the divergence
        return f"{diverged}. The search for its cause failed: {type(error).__name__}: {error}", {}
    except Stopped:
        return f"{diverged}. The search for its cause was interrupted", {}
    if report is None:
        return f"{diverged}. All steps were finite when repeated: this run is not deterministic", {}
    return nan_trace.summarize(report), report
