"""New names of keys, options and classes that were renamed, for messages and for stored runs."""

from typing import Any

from dltrain.config.facts import FACT, RENAMED

# Group -> old name of a key -> new name.
KEYS = {
    "model": {"hidden": "hidden_size", "depth": "num_layers", "heads": "num_heads", "feedforward": "ffn_ratio"},
    "data": {
        "length": "context_length",
        "side": "image_size",
        "labels": "num_labels",
        "holes": "missing",
        "normalise": "normalize",
    },
    "task": {
        "critic_turns": "n_critic",
        "code_l1": "latent_l1",
        "activity": "sparsity_target",
        "normalise": "normalize",
        "binarise": "binarize",
    },
    "regularization": {"average": "ema_decay", "biases": "decay_biases", "early_stopping": "early_stopping_patience"},
    "optimizer.schedule": {
        "rise": "pct_start",
        "start": "start_factor",
        "end": "end_factor",
        "every": "step_size",
        "factor": "gamma",
    },
}
# Group -> old name of an option -> new name.
OPTIONS = {"experiment": {"transformer_memorise": "transformer_memorize"}}
# Arguments that have the name of an old key but were not renamed: (class, argument).
KEPT = {("dltrain.optim.schedules.Plateau", "factor")}
# Old module -> new module, for the classes that a `_target_` could name.
MODULES = {
    **{f"dltrain.data.{name}": f"dltrain.datasets.{name}" for name in ("cifar10", "digits", "image_folder")},
    **{f"dltrain.data.{name}": f"dltrain.datasets.{name}" for name in ("mnist", "npz", "table", "text")},
    **{f"dltrain.data.{name}": "dltrain.datasets.synthetic" for name in ("gates", "ring")},
    "dltrain.data.series": "dltrain.datasets.time_series",
    "dltrain.models.adversarial": "dltrain.models.gan",
    "dltrain.models.boltzmann": "dltrain.models.rbm",
    "dltrain.tasks.boltzmann": "dltrain.tasks.contrastive_divergence",
    "dltrain.muon": "dltrain.optim.muon",
    "dltrain.schedule": "dltrain.optim.schedules",
}


def new_key(key: str) -> str | None:
    """Return the new name of an old key such as ``model.hidden``, or None if the key was not renamed."""
    group, _, name = key.rpartition(".")
    new = "_provides_" if name == "_facts_" else KEYS.get(group, {}).get(name)
    return f"{group}.{new}" if new else None


def new_target(target: str) -> str | None:
    """Return the new ``_target_`` of a class that has moved, or None if it has not."""
    module, _, name = target.rpartition(".")
    return f"{MODULES[module]}.{name}" if module in MODULES else None


def new_facts(text: str) -> str:
    """Return a value in which old names of spec values are replaced by the new ones."""
    return FACT.sub(lambda match: f"${{spec.{RENAMED.get(match[1], match[1])}", text)


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Convert the job.yaml of an earlier version to the new names, without changing how the run reads its data."""
    keys: dict[str, str] = {}
    config = _with_new_names(content["config"], "", keys)
    data = config.get("data") or {}
    _keep_reading_as_before(data)
    if "_provides_" in data:
        names = (RENAMED.get(fact, fact).partition(".")[0] for fact in data["_provides_"])
        data["_provides_"] = list(dict.fromkeys(names))
    overrides = []
    for override in content["overrides"]:
        key, _, value = override.partition("=")
        name = key.lstrip("+~")
        new = keys.get(name.replace("/", "."))
        option = OPTIONS.get(name, {}).get(value)
        overrides.append(f"{key}={option}" if option else override.replace(name, new, 1) if new else override)
    choices = {group: OPTIONS.get(group, {}).get(option, option) for group, option in content["choices"].items()}
    return {**content, "config": config, "overrides": overrides, "choices": choices}


def _keep_reading_as_before(data: dict[str, Any]) -> None:
    """Set arguments of the data set so that it reads its files as version 0.1 did."""
    target = str(data.get("_target_", ""))
    if target.endswith(".CsvTable") and "ignore" not in data:
        data |= {"ignore": None, "stratify": False}
    if data.get("augment") == []:
        data["augment"] = "${augment}"  # [] meant no augmentation, which is now the default of the group augment
    if target.endswith(".TimeSeries") and "group" not in data:
        data.setdefault("column", None)


def _with_new_names(node: Any, group: str, keys: dict[str, str]) -> Any:
    """Rename spec values, classes and keys, except keys of classes outside dltrain; record old -> new key in `keys`."""
    if isinstance(node, list):
        return [_with_new_names(item, group, keys) for item in node]
    if not isinstance(node, dict):
        return new_facts(node) if isinstance(node, str) else node
    target = str(node.get("_target_", "dltrain."))
    target = new_target(target) or target
    found: dict[Any, Any] = {}
    for name, value in node.items():
        key = f"{group}.{name}"
        new = new_key(key) if target.startswith("dltrain.") or name == "_facts_" else None
        if new is None or (target, name) in KEPT or new.rpartition(".")[2] in node:
            found[name] = _with_new_names(value, key.lstrip("."), keys)
        else:
            keys[key] = new
            found[new.rpartition(".")[2]] = _with_new_names(value, key.lstrip("."), keys)
    return {**found, "_target_": target} if "_target_" in node else found
