"""Resume a run from its newest undamaged checkpoint."""

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

from dltrain.config.revise import Changes
from dltrain.data.loader import Batches
from dltrain.errors import CheckpointError, ConfigError, format_error, shorten
from dltrain.loggers.console import Console
from dltrain.runs.assemble import Components
from dltrain.storage import run_files
from dltrain.storage.checkpoint_format import STATE_ERRORS
from dltrain.storage.checkpoints import Checkpoints
from dltrain.training.loop import Loop
from dltrain.training.state import Stages


class SavedState(NamedTuple):
    """A loaded checkpoint: the name of its file, and its content."""

    name: str
    content: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps taken so far."""
        return self.content["loop"]["step"]


def newest_checkpoint(path: Path) -> tuple[SavedState | None, list[str]]:
    """Return the newest undamaged checkpoint of a run (None if it has no checkpoints), and notes for the user."""
    if not any(path.glob("checkpoints/step-*.pt")):
        return None, ["no checkpoint was written yet: starting from the beginning"]
    name, content, damaged = Checkpoints(path).load_newest()
    notes = [f"falling back to {path / run_files.CHECKPOINTS / name}"] if damaged else []
    return SavedState(name, content), [*damaged, *notes]


def check_not_shorter(saved: SavedState, components: Components, batches: dict[str, Batches]) -> None:
    """Reject a length of training that the run has already exceeded."""
    steps = Stages(components.stages(), batches, components.trainer).steps
    if steps < saved.step:
        taken = f"at least the {saved.step:,} steps already taken"
        hint = "trainer.epochs or trainer.max_steps is too small. For a shorter run: dltrain rerun."
        raise ConfigError(format_error("trainer", taken, f"{steps:,}", hint))


def check_schedule(
    saved: SavedState, components: Components, batches: dict[str, Batches], changes: Changes, allowed: bool
) -> str | None:
    """Return a note if a new length of training makes the learning rate jump; if not `allowed`, raise ConfigError."""
    keys = [key for key in ("trainer.epochs", "trainer.max_steps") if key in changes]
    if not keys:
        return None
    earlier = dataclasses.replace(components.trainer, **{key.partition(".")[2]: changes[key][0] for key in keys})
    loop, stages = saved.content["loop"], components.stages()
    done = saved.step - loop["stage_start"]
    lengths = [Stages(stages, batches, trainer).plans[loop["stage"]].steps for trainer in (earlier, components.trainer)]
    for turn in stages[loop["stage"]].turns if done else ():
        schedule = components.build_optimizer(turn, lengths[1]).schedule
        rate = components.config["optimizer"].get("lr", 1.0) if turn.lr is None else turn.lr
        schedule.load_state_dict(saved.content["schedules"][turn.name])
        before, after = (schedule.factor(done - 1, steps) for steps in lengths)
        if not math.isclose(before, after):
            following = rate * schedule.factor(done, lengths[1])
            change = f"the learning rate changes from {rate * before:.3g} to {following:.3g} at step {saved.step:,}"
            if allowed:
                return f"{change}, because the schedule depends on the length of training"
            hint = f"{change.capitalize()}. To allow it: dltrain resume RUN ... --change-schedule"
            raise ConfigError(*(format_error(key, shorten(changes[key][0]), changes[key][1], hint) for key in keys))
    return None


def restore_loop(loop: Loop, saved: SavedState, checkpoints: Checkpoints, console: Console) -> None:
    """Load a checkpoint into the loop, then clear `saved` so that the state is not kept in memory twice."""
    try:
        loop.load_state_dict(saved.content, checkpoints.read_manifest().get(saved.name, {}))
    except STATE_ERRORS as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{saved.name}: rejected because this run cannot resume from it. {reason}") from error
    best = checkpoints.path / checkpoints.resolve(run_files.BEST)
    if loop.state.best is not None and (damage := checkpoints.find_damage(best)):
        console.warning(f"{best}: ignored because {damage}; the best checkpoint is selected from later checkpoints")
        loop.state.best, loop.state.best_step = None, 0
    saved.content.clear()
    console.info(f"resumed at step {loop.state.step:,} from {saved.name}")
