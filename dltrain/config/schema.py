"""Valid types, ranges and choices of each configuration key, checked before torch is imported.

A key accepts the same values in every group, unless it is listed with the name of a group or class.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dltrain.config.facts import Fact
from dltrain.errors import format_error, suggest
from dltrain.redaction import MASK

UNITS = ("step", "epoch", "minute")

MAX_FLOAT = 3.4028234663852886e38  # largest float32, the type of weights and losses
MAX_INTEGER = 2**53  # float64 represents all whole numbers up to this one


@dataclass(frozen=True)
class FieldSpec:
    """The values that a key accepts."""

    text: str  # a description for messages: "a number above 0"
    accepts: Callable[[Any], bool]  # whether one value is valid
    names: tuple[str, ...] = ()  # the valid names of a choice; empty for other fields
    many: bool = False  # a list of valid values may replace the scalar in YAML
    null: bool = False  # null may replace the value in YAML
    edges: tuple[float, ...] = ()  # valid values at or near the ends of the range, for tests
    below: int | None = None  # the upper limit of whole numbers, exclusive


def integer(minimum: int, below: int = MAX_INTEGER, many: bool = False, null: bool = False) -> FieldSpec:
    """Return the spec of whole numbers in [`minimum`, `below`)."""
    text = f"a whole number of at least {minimum}" + (f" and at most {below - 1:,}" if below < MAX_INTEGER else "")
    valid = range(minimum, below)
    return FieldSpec(text, lambda value: type(value) is int and value in valid, (), many, null, (minimum,), below)


def real(interval: str, many: bool = False, null: bool = False) -> FieldSpec:
    """Return the spec of numbers in `interval`, a string such as ``(0, 1]``."""
    low, high = (float(part) for part in interval[1:-1].split(","))
    low_closed, high_closed = interval[0] == "[", interval[-1] == "]"

    def accepts(value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        return (low <= value if low_closed else low < value) and (value <= high if high_closed else value < high)

    ends = [] if low == -math.inf else [f"of at least {low:g}" if low_closed else f"above {low:g}"]
    ends += [] if high == math.inf else [f"at most {high:g}" if high_closed else f"below {high:g}"]
    edges = [low if low_closed else low + 1e-6] if low != -math.inf else []
    edges += [high if high_closed else high - 1e-6] if high != math.inf else []
    return FieldSpec(f"a number {' and '.join(ends)}".rstrip(), accepts, (), many, null, tuple(edges))


def choice(*names: str, many: bool = False, null: bool = False) -> FieldSpec:
    """Return the spec of one of several names."""
    return FieldSpec(f"one of {' '.join(names)}", lambda value: value in names, names, many, null)


def text(many: bool = False, null: bool = False) -> FieldSpec:
    """Return the spec of strings; with `null`, the value and elements of a list may also be null."""
    return FieldSpec("text", lambda value: isinstance(value, str) or (null and value is None), (), many, null)


def parse_interval(value: Any) -> tuple[float, str] | None:
    """Return ``(2, "epoch")`` for ``"2 epochs"``, or None for an invalid interval; a bare number counts steps."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value))
    unit = (match[2] or "step").removesuffix("s") if match else ""
    if not match or unit not in UNITS or float(match[1]) <= 0:
        return None
    count = float(match[1])
    return None if count >= MAX_INTEGER or (unit != "minute" and count != int(count)) else (count, unit)


INTERVAL = FieldSpec(
    'an interval such as "50 steps", "1 epoch" or "10 minutes"', lambda value: parse_interval(value) is not None
)

CALENDAR = ("minute", "hour", "weekday", "day", "month", "yearday")
MONTHS = re.compile(r"\d+(mo)?", re.ASCII)  # a number of rows, or of months: 12mo


# Names of keys -> accepted values. For keys not listed here, the type annotation in the constructor applies.
TABLE = {
    "seed": integer(0, below=2**63),
    "epochs num_labels eval_examples": integer(1, null=True),
    "max_steps accumulate keep_last keep_best batch_size max_bad_samples window horizon season cd_steps": integer(1),
    "num_layers": integer(1, below=10_001),  # more layers take minutes to build, then run out of memory
    "num_heads channels patch_length context_length image_size width ffn_ratio latent statistics answers": integer(1),
    "ns_steps": integer(1, below=100),
    "importance_samples n_critic modes max_boxes num_convs Shapes.examples frames frame_stride": integer(1),
    "clips sequences": integer(8),
    "FCOS.levels": integer(1, below=6),
    "fpn_width": FieldSpec("a multiple of 32", lambda value: type(value) is int and value > 0 and value % 32 == 0),
    "workers early_stopping_patience patience pretrain_epochs": integer(0),
    "stride kernel hidden_size": integer(1, many=True),
    "lr worker_timeout eps step_size factor gamma radius logit_scale bias_factor": real("(0, inf)"),
    "max_minutes": real("(0, 1e8]", null=True),
    "pretrain_lr critic_lr generator_lr": real("(0, inf)", null=True),
    "validation betas dropout label_smoothing ema_decay task.noise": real("[0, 1)"),
    "momentum": real("[0, 1)", null=True),
    "alpha rho dampening pct_start task.warmup task.dice": real("[0, 1]"),
    "min_score nms_iou vote_iou min_visible": real("[0, 1]"),
    "tile patch_size": integer(1, null=True),
    "split": FieldSpec(
        "a number of rows, or months such as 12mo",
        lambda value: MONTHS.fullmatch(str(value)) is not None,
        many=True,
        null=True,
    ),
    "calendar": choice(*CALENDAR, many=True, null=True),
    "split_by": choice("picture", "area"),
    "test sparsity_target": real("(0, 1)"),
    "mask_share norm_momentum": real("(0, 1]"),
    "width_mult task.temperature": real("(0, inf)"),
    "noise_share": real("(0, 1)"),
    "span_length": real("[1, inf)"),
    "sentinels overlap": integer(0),
    "max_words min_count data.block frame_features max_answer max_question": integer(1),
    "ImageMasks.ignore": integer(0, below=256, null=True),
    "data.threshold": real("(-inf, inf)", null=True),
    "data.weight": integer(1, many=True),
    "max_target_length": integer(1, null=True),
    "mean": real("(-inf, inf)", many=True),
    "std": real("(0, inf)", many=True),
    "weight_decay l1 l2 clip clip_norm clip_value momentum_decay lr_decay initial_accumulator_value": real("[0, inf)"),
    "warmup start_factor end_factor threshold beta amount sparsity latent_l1 contraction": real("[0, inf)"),
    "penalty": real("[0, inf)", null=True),
    "aux_weight box_weight": real("[0, inf)"),
    "augment.shift augment.erase": integer(0),
    "augment.min_area": real("(0, 1]"),
    "augment.max_stretch": real("[1, inf)"),
    "augment.rotation": real("[0, 180]"),
    "augment.zoom": real("[0, 1)"),
    "augment.brightness augment.contrast augment.saturation": real("[0, 1]"),
    "augment.randaugment": integer(0, below=101),
    "augment.magnitude": real("[0, 30]"),
    "augment.mixup augment.cutmix": real("[0, inf)"),
    "transfer.freeze": FieldSpec("auto or a module", lambda value: isinstance(value, str), many=True),
    "unfreeze_at": integer(0, many=True, null=True),
    "lr_scale": real("(0, inf)", many=True),
    "log_every eval_every checkpoint_every": INTERVAL,
    "trainer.resume": choice("never", "auto"),
    "device.name": choice("auto", "cpu", "cuda", "mps"),
    "channels_last": FieldSpec("auto, true or false", lambda value: value == "auto" or isinstance(value, bool)),
    "on_non_finite": choice("stop", "skip", "ignore"),
    "on_oom": choice("stop", "shrink"),
    "on_bad_sample": choice("stop", "skip"),
    "decimal": choice("point", "comma"),
    "gate": choice("and", "or", "nand", "nor", "xor", "xnor"),
    "method": choice("contrastive_divergence", "denoising"),
    "likelihood": choice("auto", "bernoulli", "gaussian"),
    "distance": choice("mse", "bernoulli"),
    "task.code": choice("identity", "relu", "sigmoid", "tanh"),
    "corruption": choice("none", "gaussian", "masking", "salt_and_pepper"),
    "precision": choice("auto", "fp32", "tf32", "bf16", "fp16"),
    "normalize": choice("last", "window", "train"),
    "loss_name": choice("mse", "l1", "huber"),
    "task.by": choice("none", "horizon", "origin"),
    "task.block": integer(1, null=True),
    "task.output": choice("point", "quantile", "gaussian"),
    "task.quantiles": real("(0, 1)"),
    "Adversarial.loss_name": choice("non_saturating", "least_squares", "hinge", "wasserstein"),
    "critic_norm": choice("batch", "layer", "none"),
    "tokens": choice("words", "bpe", "wordpiece"),
    "Text.tokens": choice("characters", "bytes", "words", "bpe", "wordpiece"),
    "Parallel.tokens": choice("words", "characters", "bpe", "wordpiece"),
    "data.source data.target": text(many=True, null=True),
    "Speech.tokens": choice("characters", "words"),
    "mels stack": integer(1),
    "map_above": real("[0, inf)", null=True),
    "pad_multiple": integer(1, below=9),
    "sample_rate": integer(1000, below=1_000_001, null=True),
    "window_ms hop_ms": real("[1, 1000]"),
    "max_seconds": real("(0, inf)"),
    "frequency_masks frequency_mask_size time_masks time_mask_size": integer(0),
    "time_mask_share": real("[0, 1]"),
    "decode_examples transpose": integer(0),
    "teacher_forcing": real("[0, 1]"),
    "length_penalty": real("[0, inf)"),
    "steps_per_beat": integer(1, below=97),
    "max_length": integer(1),
    "TextPairs.max_length SentencePairs.max_length": integer(8),
    "RandomPairs.vocabulary": integer(5),
    "symbols": integer(2, below=27),
    "AddingProblem.steps": integer(2),
    "steps pairs delay items beam": integer(1),
    "weight_dropout": real("[0, 1)"),
    "forget_bias": real("(-inf, inf)", null=True),
    "recurrent_init": choice("uniform", "orthogonal", "identity"),
    "num_kv_heads head_size ffn_size": integer(1, null=True),
    "num_buckets": integer(4),
    "EncoderDecoder.norm": choice("layer", "rms"),
    "EncoderDecoder.positions": choice("sinusoidal", "learned", "rotary", "none"),
    "Seq2Seq.positions": choice("none", "sinusoidal"),
    "attention": choice("none", "additive", "dot", "general"),
    "pool": choice("max", "avg", "none"),
    "LeNet5.pool": choice("max", "avg"),
    "LeNet5.variant": choice("modern", "original"),
    "ViT.variant": choice("tiny", "small", "base"),
    "ViT.hidden_size ViT.num_heads": integer(1, null=True),
    "ResNet9.alpha": real("(0, inf)"),
    "ViT.pool": choice("class_token", "mean"),
    "FCN.backbone": choice("resnet50", "resnet101"),
    "DeepLabV3.backbone": choice("resnet50", "resnet101", "mobilenet_v3_large"),
    "padding": choice("same", "valid"),
    "stem": choice("imagenet", "small"),
    "VGG.norm": choice("batch", "none"),
}
FIELDS = {name: field for names, field in TABLE.items() for name in names.split()}

# YAML type -> the types that may replace it, and their name in messages.
KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
    list: ((list,), "a list"),
    dict: ((dict,), "a group of keys"),
}


def field_of(key: str, target: str = "") -> FieldSpec | None:
    """Return the values accepted by a key such as ``model.hidden_size``, or None for any value of its type.

    `target` is the ``_target_`` of the key's group, because a few classes accept other values.
    """
    name = key.rsplit(".", 1)[-1]
    return FIELDS.get(f"{target.rsplit('.', 1)[-1]}.{name}") or FIELDS.get(key) or FIELDS.get(name)


def check_range(key: str, value: Any, target: str = "") -> str | None:
    """Return the error if `value` is outside the range of `key`, else None. Null is not checked here."""
    field = field_of(key, target)
    items = value if isinstance(value, list) else [value]
    if field is not None and value is not None and not is_deferred(value):
        for item in items:
            if not field.accepts(item):
                huge = field.below is not None and type(item) is int and item >= MAX_INTEGER
                text = f"a whole number below {field.below:,}" if huge else field.text
                return format_error(key, text, item, suggest(str(item), field.names))
    large = next((item for item in items if is_too_large(item)), None)
    if large is None:
        return None
    limit = f"{MAX_FLOAT:.2g} (float32)" if type(large) is float else "2**63"
    return format_error(key, f"a number below {limit}" if large > 0 else f"a number above -{limit}", large)


def is_too_large(value: Any) -> bool:
    """Return whether a finite float exceeds the range of float32, or an integer the range of int64."""
    return (type(value) is float and MAX_FLOAT < abs(value) < math.inf) or (type(value) is int and abs(value) >= 2**63)


def check_type(key: str, value: Any, default: Any, target: str = "") -> str | None:
    """Return the error if the type of an override's value does not fit the key or its default in YAML, else None."""
    field = field_of(key, target)
    if default is None or default == "auto" or is_deferred(default) or is_deferred(value):
        return None
    if field is None:
        kinds, text = KINDS[type(default)]
        fits = value is None or type(value) in kinds
    else:
        elementwise = isinstance(default, list) and not field.many
        text = f"a list whose elements are each {field.text}" if elementwise else field.text
        fits = field.null if value is None else field.many or (type(value) is list) == (type(default) is list)
        fits = fits and not isinstance(value, Mapping)
    return None if fits else format_error(key, text, "null" if value is None else value)


def may_be_list(key: str, default: Any) -> bool:
    """Return whether a list may replace the default in YAML."""
    field = field_of(key)
    return isinstance(default, list) or default == "auto" or (field is not None and field.many)


def is_deferred(value: Any) -> bool:
    """Return whether a value is known only later: an interpolation, a spec value, a missing or a masked value."""
    return isinstance(value, Fact) or (isinstance(value, str) and ("${" in value or value in ("???", MASK)))


def out_of_range(node: Any, prefix: str = "", target: str = "") -> Iterator[str]:
    """Yield an error for each value of a configuration that is out of range.

    Arguments of a user's own class are skipped, because their names may have other meanings.
    """
    if isinstance(node, Mapping):
        target = str(node.get("_target_", ""))
        if not target or target.startswith(("dltrain.", "torch.", "torchvision.")):
            for name, value in node.items():
                yield from out_of_range(value, f"{prefix}.{name}" if prefix else str(name), target)
    elif isinstance(node, list) and any(isinstance(item, Mapping) for item in node):
        for number, item in enumerate(node):
            yield from out_of_range(item, f"{prefix}.{number}", target)
    elif error := check_range(prefix, node, target):
        yield error
