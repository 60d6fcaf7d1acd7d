"""Constructors accept the limits of the ranges in config/schema."""

import functools
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dltrain.config import compose, schema
from dltrain.errors import ConfigError

CONF = compose.conf_dir()
# Spec values that satisfy every model and task.
FACTS: dict[str, Any] = {
    **{"shape": [1, 16, 16], "size": 256, "features": 16, "length": 16, "channels": 1, "height": 16, "width": 16},
    **{"outputs": 4, "classes": 4, "class_names": list("abcd"), "statistics": 2, "visible": 256, "lowest": 256},
    **{"answers": 1, "low": [0.0], "high": [1.0], "horizon": 3, "columns": 1, "season": 1, "unit": "", "targets": 1},
    **{"target_names": ["y"], "each_step": False, "causal": False},
    "clip": {"channels": 3, "frames": 4, "height": 8, "width": 8},
    "tokens": {
        "size": 11,
        "pad": 0,
        "unknown": 4,
        "special": [],
        "begin": 1,
        "end": 2,
        "mask": 3,
        "sentinels": [5, 6, 7],
        "unit": None,
        "encode": list,
        "decode": str,
    },
    "target_tokens": {
        **{"size": 9, "pad": 0, "unknown": 1, "begin": 2, "end": 3, "encode": list, "decode": str},
        "sentinels": [],
    },
    "notes": {"size": 5, "encode": list, "decode": str, "lowest": 21},
    "audio": {"bands": 20, "frames": 1, "step_seconds": 0.01},
    "transcripts": {"size": 9, "blank": 0, "decode": str},
    **{"target_length": 8, "target_outputs": 9, "shared_vocabulary": True, "prefixes": ["a: ", "b: "]},
    **{
        "lags": None,
        "normalize": None,
        "series_names": None,
        "answer_spans": True,
        "sentence_pairs": None,
        "tags": 4,
        "tag_names": ["B-X", "I-X", "B-Y", "O"],
    },
    **{"pixel_classes": 4, "pixel_class_names": list("abcd"), "pixel_outputs": 4},
    **{"object_classes": 4, "object_class_names": list("abcd"), "object_outputs": 5},
}


def options() -> list[Any]:
    """Return each option with the limits and choices that the schema sets for its keys.

    Options of the same class share limits: the first option is tested by default, repetitions are marked `slow`.
    """
    found, seen = [], set()
    for group in ("model", "data", "task", "optimizer/schedule"):
        for file in sorted((CONF / group).glob("*.yaml")):
            node = OmegaConf.to_container(OmegaConf.load(file))
            edges: dict[bool, list[tuple[str, Any]]] = {False: [], True: []}
            for key, value in node.items():
                field = schema.field_of(f"{group.replace('/', '.')}.{key}", node["_target_"])
                if field and not str(value).startswith("${") and key != "_target_":
                    for edge in (*field.edges, *field.names):
                        case = (node["_target_"], key, str(edge))
                        edges[case in seen].append((key, edge))
                        seen.add(case)
            for repeated, chosen in edges.items():
                marks = [pytest.mark.slow] if repeated else []
                found += (
                    [pytest.param(group, file.stem, chosen, marks=marks, id=f"{group}={file.stem}")] if chosen else []
                )
    return found


@functools.cache
def constructor_and_arguments(group: str, option: str) -> tuple[Any, dict[str, Any]]:
    node = OmegaConf.load(CONF / group / f"{option}.yaml")
    regularization = OmegaConf.load(CONF / "regularization/none.yaml")
    groups = {"regularization": regularization, "augment": OmegaConf.load(CONF / "augment/none.yaml")}
    whole = OmegaConf.create({"spec": FACTS, **groups}, flags={"allow_objects": True})
    whole.node = node
    resolved = OmegaConf.to_container(whole, resolve=True)["node"]
    module, _, name = resolved["_target_"].rpartition(".")
    arguments = {k: v for k, v in resolved.items() if k != "defaults" and not k.startswith("_")}
    return getattr(importlib.import_module(module), name), arguments


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, own_files: dict[str, Path]) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    x, y = np.random.default_rng(0).random((40, 6)), np.arange(40) % 2
    np.savez(folder / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (folder / "a.csv").write_text("a,b\n" + "".join(f"{n},{n % 2}\n" for n in range(40)))
    for name in ("a", "b"):
        (folder / "pictures" / name).mkdir(parents=True)
        (folder / "pictures" / name / "1.png").touch()
    return {
        **{name: str(own_files[name]) for name in ("image_masks", "detection_folder", "video_folder", "pixels_csv")},
        **{name: str(own_files[name]) for name in ("pianoroll", "midi", "midi_events")},
        **{name: str(own_files[name]) for name in ("parallel", "summaries", "text_to_text")},
        **{name: str(own_files[name]) for name in ("conll", "squad", "text")},
        "sentence_pairs": str(own_files["text"]),
        "speech": str(own_files["speech"]),
        "npz": str(folder / "a.npz"),
        "csv": str(folder / "a.csv"),
        "image_folder": str(folder / "pictures"),
    }


@pytest.mark.parametrize(("group", "option", "edges"), options())
def test_constructors_accept_the_limits_of_every_range_in_the_schema(
    group: str, option: str, edges: list[tuple[str, Any]], files: dict[str, str]
) -> None:
    build, arguments = constructor_and_arguments(group, option)
    if group == "data" and option in files:
        arguments["path"] = files[option]
    # The meta device avoids the slow initialization of weights.
    with torch.device("meta" if group == "model" and option != "lenet5" else "cpu"):
        for key, value in edges:
            given = [value] * len(arguments[key]) if isinstance(arguments[key], list) else value
            try:
                build(**{**arguments, key: given})
            except ConfigError as error:
                # A limit may violate only a constraint on two values, for example that validation + test is below 1.
                (line,) = error.problems
                assert not re.match(r"\S+: expected (one of|a number|a whole number)\b", line), (key, value, line)
