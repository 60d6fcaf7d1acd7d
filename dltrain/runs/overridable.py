"""Configuration keys that `resume` may override, and keys that `evaluate`, `predict` and `generate` may override."""

from dltrain.config.revise import Changes
from dltrain.errors import ConfigError, format_error, shorten

# Keys that a resumed run may override: how long it trains, when it logs and saves, which checkpoints it keeps, how it
# handles interruptions and running out of memory, and where and how its data are read. All keys of `device` except the
# precision may change too.
RESUME = (
    *(f"trainer.{name}" for name in ("epochs", "max_steps", "max_minutes", "log_every", "checkpoint_every")),
    *(f"trainer.{name}" for name in ("keep_last", "keep_best", "requeue", "resume", "on_oom")),
    *(f"data.{name}" for name in ("workers", "root", "path", "audio_folder", "tokenizer", "download")),
    *(f"data.{name}" for name in ("worker_timeout", "on_bad_sample", "max_bad_samples")),
)

# Keys of `data` that may change after training: where and how the data are read, and the policy for missing values.
PREDICT_DATA = (
    *("path", "root", "audio_folder", "tokenizer", "download", "batch_size", "workers", "worker_timeout"),
    *("on_bad_sample", "max_bad_samples", "missing"),
)
PREDICT = ("device.", "task.features", "task.beam", "task.length_penalty", "task.by", "allow_targets")  # prefixes


def check_resume(changes: Changes, run: str, precision: str) -> None:
    """Raise ConfigError for changes that are not allowed when the run in the folder `run` resumes."""
    # With fp16 the schedule excludes skipped steps, whose number is updated only when losses are logged, so
    # `log_every` affects the learning rate.
    free = [key for key in RESUME if precision != "fp16" or key != "trainer.log_every"]
    fixed = [k for k in changes if k not in free and (not k.startswith("device.") or k == "device.precision")]
    if fixed:
        lines = _errors({key: changes[key] for key in fixed}, "It cannot be changed on resume.")
        raise ConfigError(*lines, f"For a new run with these values: dltrain rerun {run} KEY=VALUE ...")


def extends_training(changes: Changes) -> bool:
    """Return whether changes raise or remove (null) a limit of a finished run."""
    keys = ("trainer.epochs", "trainer.max_steps", "trainer.max_minutes")
    pairs = (changes.get(key, (0, 0)) for key in keys)
    return any(after is None or (before is not None and after > before) for before, after in pairs)


def names_other_data(changes: Changes) -> bool:
    """Return whether an override changes the location of the data."""
    return any(f"data.{name}" in changes for name in ("path", "root"))


def check_predict(changes: Changes) -> None:
    """Raise ConfigError for changes that are not allowed after training."""
    data = [f"data.{name}" for name in PREDICT_DATA]
    tasks = "task.{features,beam,length_penalty,by}"
    hint = f"After training, only data.{{{','.join(PREDICT_DATA)}}}, device.*, {tasks} and allow_targets may change."
    fixed = {key: pair for key, pair in changes.items() if not key.startswith(PREDICT) and key not in data}
    if fixed:
        raise ConfigError(*_errors(fixed, hint))


def _errors(changes: Changes, hint: str) -> list[str]:
    """Return an error for each changed key; if a class changed, one error instead of errors for all of its keys."""
    replaced = tuple(f"{key.removesuffix('._target_')}." for key in changes if key.endswith("._target_"))
    shown = (key for key in changes if key.endswith("._target_") or not key.startswith(replaced))
    pairs = ((key, *changes[key]) for key in shown)
    return [format_error(k, "no value" if old is None else shorten(old), new, hint) for k, old, new in pairs]
