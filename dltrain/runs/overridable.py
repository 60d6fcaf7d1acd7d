"""The configuration keys that `resume` and `predict` may override."""

from dltrain.config.revise import Changes
from dltrain.errors import ConfigError

# Keys of a resumed run that leave every step as it was; `device.` is free too, except for the precision.
RESUME = (
    *(f"trainer.{name}" for name in ("epochs", "max_steps", "max_minutes", "log_every", "checkpoint_every")),
    *(f"trainer.{name}" for name in ("keep_last", "keep_best", "requeue", "resume", "on_oom")),
    *(f"data.{name}" for name in ("workers", "root", "path", "download")),
    *(f"data.{name}" for name in ("worker_timeout", "on_bad_sample", "max_bad_samples")),
)

# Keys of `data` that say where the data are and how they are read, not what the trained model receives.
PREDICT_DATA = (
    *("path", "root", "download", "batch_size", "workers", "worker_timeout"),
    *("on_bad_sample", "max_bad_samples", "missing"),
)
PREDICT = ("device.", "task.features", "allow_targets")  # prefixes


def check_resume(changes: Changes, run: str, precision: str) -> None:
    """Refuse changes that would alter the training steps of the resumed run in the folder `run`."""
    # With fp16 the schedule learns of skipped steps when losses are read back, which log_every decides.
    free = [key for key in RESUME if precision != "fp16" or key != "trainer.log_every"]
    fixed = [k for k in changes if k not in free and (not k.startswith("device.") or k == "device.precision")]
    if fixed:
        lines = [f"{key}: a resumed run keeps {changes[key][0]}, got {changes[key][1]}" for key in fixed]
        raise ConfigError(*lines, f"For a new run with these values: dltrain rerun {run} KEY=VALUE ...")


def extends_training(changes: Changes) -> bool:
    """Return whether changes extend the training of a finished run; null removes a limit."""
    keys = ("trainer.epochs", "trainer.max_steps", "trainer.max_minutes")
    pairs = (changes.get(key, (0, 0)) for key in keys)
    return any(after is None or (before is not None and after > before) for before, after in pairs)


def check_predict(changes: Changes) -> None:
    """Refuse changes that a trained model was not made for."""
    data = [f"data.{name}" for name in PREDICT_DATA]
    free = f"Only device. and data.{{{','.join(PREDICT_DATA)}}} may change."
    lines = [
        f"{key}: a trained model keeps {old}, got {new}. {free}"
        for key, (old, new) in changes.items()
        if not key.startswith(PREDICT) and key not in data
    ]
    if lines:
        raise ConfigError(*lines)
