"""The words of the configuration: what each may be. A word means the same wherever it stands, so it is said once.

Checked before torch is imported, over every value of the composed configuration.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dltrain.errors import format_error, suggest
from dltrain.redaction import MASK

SPANS = ("step", "epoch", "minute")


@dataclass(frozen=True)
class Word:
    """What a value may be.

    Args:
        text: In words.
        admits: Whether one value is such.
        names: The names to choose from, if it is a choice.
        many: Whether a list of such values may stand where YAML has one.
        null: Whether null may stand where YAML has a value.
    """

    text: str
    admits: Callable[[Any], bool]
    names: tuple[str, ...] = ()
    many: bool = False
    null: bool = False


def whole(least: int, below: float = math.inf, many: bool = False, null: bool = False) -> Word:
    """A whole number."""
    text = f"a whole number of at least {least}"
    return Word(text, lambda value: type(value) is int and least <= value < below, many=many, null=null)


def real(interval: str, many: bool = False, null: bool = False) -> Word:
    """A number in an interval written as mathematics does: ``(0, 1]``."""
    low, high = (float(part) for part in interval[1:-1].split(","))
    closed, shut = interval[0] == "[", interval[-1] == "]"

    def admits(value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        return (value >= low if closed else value > low) and (value <= high if shut else value < high)

    ends = [] if low == -math.inf else [f"of at least {low:g}" if closed else f"above {low:g}"]
    ends += [] if high == math.inf else [f"at most {high:g}" if shut else f"below {high:g}"]
    return Word(f"a number {' and '.join(ends)}".rstrip(), admits, many=many, null=null)


def choice(*names: str) -> Word:
    """One of several names."""
    return Word(f"one of {' '.join(names)}", lambda value: value in names, names)


def span(value: Any) -> tuple[float, str] | None:
    """``"2 epochs"`` -> (2, "epoch"); a bare number counts steps; None if it is no span."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value))
    unit = (match[2] or "step").removesuffix("s") if match else ""
    if not match or unit not in SPANS or float(match[1]) <= 0:
        return None
    count = float(match[1])
    return None if unit != "minute" and count != int(count) else (count, unit)


EVERY = Word('a span such as "50 steps", "1 epoch" or "10 minutes"', lambda value: span(value) is not None)

# A word that is missing here may be anything its constructor takes.
WORDS = {
    "seed": whole(0, below=2**63),
    "epochs": whole(1, null=True),
    "max_steps": whole(1),
    "accumulate": whole(1),
    "log_every": EVERY,
    "eval_every": EVERY,
    "checkpoint_every": EVERY,
    "max_minutes": real("(0, inf)"),
    "keep_last": whole(1),
    "keep_best": whole(1),
    "trainer.resume": choice("never", "auto"),
    "on_non_finite": choice("stop", "skip", "ignore"),
    "on_oom": choice("stop", "shrink"),
    "batch_size": whole(1),
    "workers": whole(0),
    "worker_timeout": real("(0, inf)"),
    "on_bad_sample": choice("stop", "skip"),
    "max_bad_samples": whole(1),
    "window": whole(1),
    "horizon": whole(1),
    "season": whole(1),
    "stride": whole(1, many=True),
    "kernel": whole(1, many=True),
    "num_labels": whole(1, null=True),
    "gate": choice("and", "or", "nand", "nor", "xor", "xnor"),
    "validation": real("[0, 1)"),
    "test": real("(0, 1)"),
    "mean": real("(-inf, inf)", many=True),
    "std": real("(0, inf)", many=True),
    "hidden_size": whole(1, many=True),
    "ffn_ratio": whole(1),
    "num_layers": whole(1),
    "num_heads": whole(1),
    "channels": whole(1),
    "context_length": whole(1),
    "image_size": whole(1),
    "lr": real("(0, inf)"),
    "momentum": real("[0, 1)", null=True),
    "betas": real("[0, 1)"),
    "alpha": real("[0, 1]"),
    "rho": real("[0, 1]"),
    "eps": real("(0, inf)"),
    "weight_decay": real("[0, inf)"),
    "warmup": real("[0, inf)"),
    "dropout": real("[0, 1)"),
    "l1": real("[0, inf)"),
    "l2": real("[0, inf)"),
    "label_smoothing": real("[0, 1)"),
    "clip_norm": real("[0, inf)"),
    "clip_value": real("[0, inf)"),
    "early_stopping_patience": whole(0),
    "ema_decay": real("[0, 1)"),
    "dampening": real("[0, 1]"),
    "momentum_decay": real("[0, inf)"),
    "lr_decay": real("[0, inf)"),
    "initial_accumulator_value": real("[0, inf)"),
    "ns_steps": whole(1),
    "step_size": real("(0, inf)"),
    "factor": real("(0, inf)"),
    "gamma": real("(0, inf)"),
    "pct_start": real("[0, 1]"),
    "start_factor": real("[0, inf)"),
    "end_factor": real("[0, inf)"),
    "patience": whole(0),
    "threshold": real("[0, inf)"),
    "width": whole(1),
    "method": choice("contrastive_divergence", "denoising"),
    "cd_steps": whole(1),
    "task.noise": real("[0, 1)"),
    "pretrain_epochs": whole(0),
    "pretrain_lr": real("(0, inf)", null=True),
    "latent": whole(1),
    "statistics": whole(1),
    "likelihood": choice("auto", "bernoulli", "gaussian"),
    "beta": real("[0, inf)"),
    "task.warmup": real("[0, 1]"),
    "importance_samples": whole(1),
    "distance": choice("mse", "bernoulli"),
    "task.code": choice("identity", "relu", "sigmoid", "tanh"),
    "corruption": choice("none", "gaussian", "masking", "salt_and_pepper"),
    "amount": real("[0, inf)"),
    "sparsity": real("[0, inf)"),
    "sparsity_target": real("(0, 1)"),
    "latent_l1": real("[0, inf)"),
    "contraction": real("[0, inf)"),
    "precision": choice("auto", "fp32", "tf32", "bf16", "fp16"),
    "normalise": choice("last", "window", "train"),
    "loss_name": choice("mse", "l1", "huber", "non_saturating", "least_squares", "hinge", "wasserstein"),
    "answers": whole(1),
    "critic_norm": choice("batch", "layer", "none"),
    "n_critic": whole(1),
    "critic_lr": real("(0, inf)", null=True),
    "generator_lr": real("(0, inf)", null=True),
    "clip": real("[0, inf)"),
    "penalty": real("[0, inf)", null=True),
    "modes": whole(1),
    "radius": real("(0, inf)"),
    "tokens": choice("characters", "bytes"),
    "pool": choice("max", "avg", "none"),
    "padding": choice("same", "valid"),
}

# What may stand where YAML has a value of a type, and how that is called.
KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
    list: ((list,), "a list"),
    dict: ((dict,), "a group of keys"),
}


def of(key: str) -> Word | None:
    """The word a key ends with, if it has a fixed meaning; a few have one at one place only."""
    return WORDS.get(key) or WORDS.get(key.rsplit(".", 1)[-1])


def check(key: str, value: Any) -> str | None:
    """Hold one value against its word; returns the mistake, or None. Null is for the constructor to judge."""
    word = of(key)
    if word is None or value is None or unsettled(value):
        return None
    items = value if isinstance(value, list) else [value]
    wrong = [item for item in items if not word.admits(item)]
    return format_error(key, word.text, wrong[0], suggest(str(wrong[0]), word.names)) if wrong else None


def mistyped(key: str, value: Any, default: Any) -> str | None:
    """Hold the type of what a user typed against that of the value YAML gives; returns the mistake, or None."""
    word = of(key)
    if default is None or default == "auto" or unsettled(default) or unsettled(value):
        return None
    if word is None:
        kinds, text = KINDS[type(default)]
        fits = value is None or type(value) in kinds
    else:
        text = word.text
        fits = word.null if value is None else word.many or type(default) is list or type(value) is not list
        fits = fits and not isinstance(value, Mapping)
    return None if fits else format_error(key, text, "null" if value is None else value)


def unsettled(value: Any) -> bool:
    """Whether a value is filled in later: an interpolation, or one the user must give (again)."""
    return isinstance(value, str) and ("${" in value or value in ("???", MASK))


def out_of_range(content: Mapping[str, Any]) -> Iterator[str]:
    """All values of a configuration that their words do not admit."""
    for key, value in leaves(content):
        if found := check(key, value):
            yield found


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key and value of every leaf that dltrain's words speak about; lists of plain values count as leaves.

    What a class of the user's own takes, it names as it likes.
    """
    if isinstance(node, Mapping):
        if str(node.get("_target_", "dltrain.")).startswith(("dltrain.", "torch.", "torchvision.")):
            for name, value in node.items():
                yield from leaves(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(node, list) and any(isinstance(item, Mapping) for item in node):
        for number, item in enumerate(node):
            yield from leaves(item, f"{prefix}.{number}")
    else:
        yield prefix, node
