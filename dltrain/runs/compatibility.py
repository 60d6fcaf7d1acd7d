"""Check that data, task and model fit together, and list the options that would fit."""

from collections.abc import Iterable, Iterator
from typing import Any

from dltrain.config import compose, instantiate, validation
from dltrain.config.compose import Job
from dltrain.config.facts import Fact, find_fact
from dltrain.errors import ConfigError, enumerate_names, format_error, suggest

Facts = dict[str, Any]

# A missing spec value, the spec value that the data provide instead, and a hint about the task that uses it.
OTHER_TARGETS = (
    ("classes", "targets", "numbers: add task=regression"),
    ("classes", "transcripts", "transcripts, most of which occur only once: use task=ctc"),
    ("targets", "classes", "classes: add task=classification"),
)

# Keys of the task `forecasting` that are used only with some values of ``task.output``.
USED_WITH_OUTPUT = {"loss_name": ("point",), "quantiles": ("quantile", "gaussian")}


def task_facts(job: Job) -> set[str]:
    """Return the spec values that at least one task provides, according to the YAML files of the tasks."""
    options = [job.config["task"], *compose.options("task", job.config_dirs).values()]
    return {fact for option in options for fact in _provides(option)}


def check_facts(job: Job, group: str, facts: Facts) -> None:
    """Reject the task or model chosen for `group` if it needs a spec value that is missing or None in `facts`."""
    needed, missing = find_missing(job, group, facts)
    if not missing:
        return
    if wrong := list(_unknown_facts(job, group, set(map(_whole, missing)))):
        raise ConfigError(*wrong)
    chosen = f"{group}={job.choices[group]}"
    source = "task" if set(missing) & task_facts(job) else "data"
    other = f"{source}={job.choices[source]}"
    others = [name for name in matching_data(job, group, needed).split() if name != job.choices["data"]]
    hint = f"Data that fit {chosen}: {' '.join(others)}"
    if source == "task":
        models = f"Models that fit {other}: {names}. " if group == "model" and (names := _matching_models(job)) else ""
        hint = f"{models}Use {_matching_task(job, group, set(missing))}"
    elif group == "task":
        found = [to for fact, stated, to in OTHER_TARGETS if fact in missing and facts.get(stated)]
        hint = f"The targets of {other} are {found[0]}. {hint}" if found else hint
    reason = f"{other} does not provide {enumerate_names(missing)}"
    raise ConfigError(f"{chosen} {other}: not supported because {reason}. {hint}.")


def find_missing(job: Job, group: str, facts: Facts) -> tuple[list[str], list[str]]:
    """Return the spec values that the task or model chosen for `group` needs, and which of them `facts` lacks."""
    needed = list(instantiate.required_facts(job.resolved[group], group, job.allow))
    return needed, list(dict.fromkeys(_lacking(fact, facts) for fact in needed if find_fact(facts, fact) is None))


def _lacking(fact: str, facts: Facts) -> str:
    """Return ``NAME`` if the spec value of ``NAME.PART`` is missing, and ``NAME.PART`` if only its part is missing."""
    return _whole(fact) if facts.get(_whole(fact)) is None else fact


def _whole(fact: str) -> str:
    return fact.partition(".")[0]


def matching_data(job: Job, group: str, needed: Iterable[str]) -> str:
    """Return the names of the data options that fit the task or model chosen for `group`, given its needed spec values.

    A model gets its spec values from the data and a task: the task that the YAML file of the model selects, or else the
    task that the YAML file of the data selects.
    """
    wanted, of_tasks = set(map(_whole, needed)), task_facts(job)
    tasks = compose.options("task", job.config_dirs)
    chosen = _selected_tasks(compose.options(group, job.config_dirs).get(job.choices[group], {}))
    fitting = []
    for name, option in compose.options("data", job.config_dirs).items():
        provided = _provides(option)
        trained = [tasks[task] for task in chosen or _selected_tasks(option) if task in tasks]
        if group == "model" and trained:
            fits = any(_needs(task, job) <= provided and wanted <= provided | _provides(task) for task in trained)
        else:
            fits = wanted - of_tasks <= provided
        fitting += [name] if fits else []
    return " ".join(fitting) or "none"


def _unknown_facts(job: Job, group: str, missing: set[str]) -> Iterator[str]:
    """Yield an error for each key of `group` whose value is a missing spec value that no data or task provides."""
    options = [option for name in ("data", "task") for option in compose.options(name, job.config_dirs).values()]
    known = {fact for option in [*options, job.config["data"], job.config["task"]] for fact in _provides(option)}
    for key, value in validation.leaves({group: job.resolved[group]}):
        if isinstance(value, Fact) and _whole(value.name) in missing - known:
            hint = suggest(_whole(value.name), known)
            yield format_error(key, "a spec value that the data or the task provides", value, hint)


def _provides(option: dict[str, Any]) -> set[str]:
    return set(option.get("_provides_", []))


def _needs(option: dict[str, Any], job: Job) -> set[str]:
    return set(map(_whole, instantiate.facts_of_yaml(option, job.allow)))


def _selected_tasks(option: dict[str, Any]) -> list[str]:
    """Return the tasks that an option selects in its YAML file: one or none."""
    defaults = [entry for entry in option.get("defaults", []) if isinstance(entry, dict)]
    return [name for entry in defaults for key, name in entry.items() if "/task" in key]


def _matching_models(job: Job) -> str:
    """Return the names of the models that need a spec value of the task and get all others from task and data."""
    task, data = (_provides(job.config[group]) for group in ("task", "data"))
    options = compose.options("model", job.config_dirs).items()
    needed = {name: _needs(option, job) for name, option in options}
    return " ".join(name for name, facts in needed.items() if facts & task and facts <= task | data)


def _matching_task(job: Job, group: str, missing: set[str]) -> str:
    """Return the task that the option's YAML file selects, or else tasks that provide the missing spec values."""
    tasks = _selected_tasks(compose.options(group, job.config_dirs).get(job.choices[group], {}))
    if tasks:
        return f"task={tasks[0]}"
    options = compose.options("task", job.config_dirs).items()
    needed = missing & task_facts(job)
    return "a task such as " + " ".join(name for name, task in options if needed <= _provides(task))


def unused_settings(job: Job) -> Iterator[str]:
    """Yield notes on settings of regularization, augmentation and forecasts that this run does not use."""
    if note := _unused_regularization(job):
        yield note
    kind = job.resolved["task"].get("output")
    for key, kinds in USED_WITH_OUTPUT.items():
        if kind not in (None, *kinds) and any(text.startswith(f"task.{key}=") for text in job.overrides):
            yield f"task.{key}: not used with task.output={kind}"
    plain = compose.options("augment", ())["none"]
    changed = {name: value for name, value in job.resolved.get("augment", {}).items() if value != plain.get(name)}
    if changed and "${augment" not in str(job.config["data"]):
        yield f"not used in this run: augment.{' and augment.'.join(changed)}"


def _unused_regularization(job: Job) -> str | None:
    written = str([job.config[group] for group in ("model", "task", "data", "optimizer")])
    names = [name for name in ("dropout", "label_smoothing") if job.resolved["regularization"].get(name)]
    unused = [name for name in names if f"${{regularization.{name}}}" not in written]
    return f"not used in this run: regularization.{' and regularization.'.join(unused)}" if unused else None
