"""Configuration nodes become objects: allowed targets and their arguments."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from dltrain.config import instantiate, interpolation, signatures
from dltrain.config.facts import Fact, fill_facts
from dltrain.data.tokens import Tokens
from dltrain.errors import ConfigError

USER_MODULE = """
import pathlib
pathlib.Path("imported").touch()
from os import system

class Model:
    def __init__(self, width: int, names: list[str] | None = None, **rest: float) -> None:
        self.width, self.names, self.rest = width, names, rest

def touch(path: str) -> None:
    pathlib.Path(path).touch()
"""


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a user module that creates a file when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    (tmp_path / "theirs.py").write_text(USER_MODULE)
    return tmp_path


def errors_of(node: dict[str, Any], *allow: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        instantiate.build(node, "node", allow)
    return caught.value.problems


def test_a_node_becomes_the_object_it_describes() -> None:
    layer = instantiate.build(
        {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 5}, "model"
    )
    assert isinstance(layer, nn.Conv2d)
    assert layer.weight.shape == (4, 3, 5, 5)


def test_a_node_inside_a_node_is_built_first() -> None:
    layer = {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": 8, "nhead": 2, "batch_first": True}
    encoder = instantiate.build(
        {"_target_": "torch.nn.TransformerEncoder", "encoder_layer": layer, "num_layers": 3}, "model"
    )
    assert len(encoder.layers) == 3
    assert encoder.layers[0].self_attn.embed_dim == 8


def test_a_partial_node_becomes_a_function_of_the_remaining_arguments() -> None:
    make = instantiate.partial({"_target_": "torch.optim.SGD", "lr": 0.5, "_note_": "not an argument"}, "optimizer")
    weight = torch.ones(1, requires_grad=True)
    optimizer = make([weight])
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == 0.5


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins.exec",
        "eval",
        "",
        None,
        "subprocess.Popen",
        "importlib.import_module",
        "pickle.loads",
        "torch.load",
        "torch.hub.load",
        "torch.utils.collect_env.run",
        "torch.utils.cpp_extension.load",
        "torch.nn.os.system",
        "torch.nn.modules.module.torch.load",
        "torch.nn.Module.load_state_dict",
        "torch.nn.modules.Linear",
        "torch.nn.functional.linear",
        "torch.nn.utils.rnn.bind",
        "torch.nn._reduction.warnings.warn",
        "torch.nn.__getattr__",
        "torch.optim.lr_scheduler.LambdaLR",
        "torchvision.datasets.utils.download_url",
        "torchvision.models.utils.load_state_dict_from_url",
        "torchvision.io.read_file",
        "numpy.load",
        "dltrain.runs.launch.shutil.rmtree",
        "dltrain.storage.run_dir.subprocess.run",
        "dltrain.storage.run_dir.RunDir",
        "dltrain.models.layers.nn.Module",
        "dltrain.models.layers.Tensor",
        "dltrain.models.recurrent.nn",
        "dltrain.datasets.npz.np.load",
        "dltrain.datasets.npz.Path",
        "dltrain.models.__builtins__",
        "dltrain.models.recurrent.Nothing",
        "dltrain.models",
        "dltrainer.models.Model",
        "theirs.touch",
    ],
)
def test_forbidden_targets_are_neither_imported_nor_called(user_folder: Path, target: str) -> None:
    sys.path.insert(0, str(user_folder))
    # Try arguments that the targets accept.
    for arguments in ({}, {"path": "called"}, {"command": "touch called"}, {"args": ["touch", "called"]}):
        (line,) = errors_of({"_target_": target, **arguments})
        assert line.startswith("node._target_: expected ")
    assert [file.name for file in user_folder.iterdir()] == ["theirs.py"]


def test_rejecting_a_user_model_suggests_allow_targets() -> None:
    (line,) = errors_of({"_target_": "theirs.nets.Model"})
    assert line.endswith("got theirs.nets.Model. If you trust that code, add allow_targets=[theirs] to the command.")


@pytest.mark.parametrize("target", ["os.system", "dltrain.runs.launch.train", "torch.load"])
def test_allow_targets_is_suggested_only_for_user_classes(target: str) -> None:
    assert "allow_targets" not in errors_of({"_target_": target})[0]


def test_rejecting_a_name_in_a_submodule_of_a_library_gives_the_reason() -> None:
    (line,) = errors_of({"_target_": "torch.nn.modules.linear.Linear"})
    assert line.endswith("got torch.nn.modules.linear.Linear. Names in submodules of torch.nn are not allowed.")


def test_an_allowed_user_model_is_imported_from_the_current_folder(user_folder: Path) -> None:
    model = instantiate.build({"_target_": "theirs.Model", "width": 3, "scale": 0.5}, "node", ("theirs",))
    assert (model.width, model.rest) == (3, {"scale": 0.5})
    assert (user_folder / "imported").exists()


@pytest.mark.parametrize("allow", ["their", "theirs.Model.x", "other", ""])
def test_allow_targets_matches_whole_module_names(user_folder: Path, allow: str) -> None:
    assert "allow_targets=[theirs]" in errors_of({"_target_": "theirs.Model", "width": 3}, allow)[0]
    assert not (user_folder / "imported").exists()


def test_allow_targets_does_not_allow_names_imported_by_the_module(user_folder: Path) -> None:
    assert "a class of theirs" in errors_of({"_target_": "theirs.system", "command": "touch called"}, "theirs")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [("def broken(:", "invalid syntax"), ("import nothing_of_this_name", "nothing_of_this_name"), ("", "Model")],
)
def test_a_target_that_cannot_be_imported_is_reported_with_its_error(
    user_folder: Path, text: str, message: str
) -> None:
    (user_folder / "theirs.py").write_text(text)
    (line,) = errors_of({"_target_": "theirs.Model"}, "theirs")
    assert line.startswith("node._target_: expected an importable class or function, got theirs.Model")
    assert message in line


def test_all_errors_of_a_node_are_reported_together() -> None:
    layer = {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": "wide", "nhaed": 2}
    found = errors_of({"_target_": "torch.nn.TransformerEncoder", "encoder_layer": layer, "norm_frist": True})
    assert [line.split(":")[0] for line in found] == [
        "node.encoder_layer.d_model",
        "node.encoder_layer.nhaed",
        "node.encoder_layer.nhead",
        "node.norm_frist",
        "node.num_layers",
    ]
    assert "Did you mean nhead?" in found[1]


def test_a_value_missing_in_yaml_is_reported() -> None:
    (line,) = errors_of({"_target_": "dltrain.datasets.npz.Npz", "path": "???"})
    assert line == "node.path: expected a value, got nothing. Set it: node.path=..."


def test_errors_of_a_library_constructor_are_reported() -> None:
    make = instantiate.partial({"_target_": "torch.optim.NAdam", "momentum_decay": -1.0}, "optimizer")
    with pytest.raises(
        ConfigError, match="optimizer: not supported because NAdam rejects these values: Invalid momentum_decay"
    ):
        make([torch.ones(1, requires_grad=True)])


@pytest.mark.parametrize(
    ("hint", "right", "wrong", "text"),
    [
        (int, [1], [1.0, True, "1", None], "a whole number"),
        (float, [1, 0.5], [True, "1", None, [1.0]], "a number"),
        (bool, [True], [1, "true", None], "true or false"),
        (str, ["x", ""], [1, None, True], "text"),
        (int | None, [1, None], ["x", 1.5], "a whole number or null"),
        (float | torch.Tensor, [0.5], ["fast", None], "a number"),
        (list[int], [[1, 2], [], (1,)], [1, ["x"], None], "a list"),
        (int | list[int], [1, [1, 2]], ["x", [None]], "a whole number or a list"),
        (tuple[float, float], [[0.9, 0.999]], [[0.9], [0.9, 0.9, 0.9], 0.9], "a list of 2 values"),
        (tuple[int, ...], [[], [1, 2, 3]], [["x"]], "a list"),
        (Literal["mse", "l1"], ["mse"], ["l3", None, 3], "one of mse l1"),
        (Any, [1, "x", None, []], [], "Any"),
        (Callable[[int], int], [len, "x"], [], ""),
        (Path, ["x"], [None], "Path"),
    ],
)
def test_values_are_checked_against_annotated_types(hint: Any, right: list[Any], wrong: list[Any], text: str) -> None:
    assert all(signatures.fits(value, hint) for value in right)
    assert not any(signatures.fits(value, hint) for value in wrong)
    assert text in signatures.describe(hint)


def test_a_spec_value_and_its_attributes_can_be_interpolated() -> None:
    config = {
        "data": {},
        "task": {"tokens": "${spec.tokens}"},
        "model": {"vocabulary": "${spec.tokens.size}", "pad": "${model.end}", "end": "${spec.tokens.end}"},
    }
    tokens = Tokens(7, end=6)
    filled = fill_facts(interpolation.resolve(config), {"tokens": tokens})
    assert filled["task"]["tokens"] is tokens
    assert filled["model"] == {"vocabulary": 7, "pad": 6, "end": 6}
    assert fill_facts(interpolation.resolve(config), {"tokens": None})["model"]["vocabulary"] is None


def test_a_misspelled_attribute_of_a_spec_value_is_rejected_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"model.size: expected an attribute of tokens, got .*Did you mean size\?"):
        fill_facts({"model": {"size": Fact("tokens.siz")}}, {"tokens": Tokens(7)})


def test_a_spec_value_is_required_unless_its_argument_accepts_none() -> None:
    node = {
        "_target_": "dltrain.models.recurrent.Recurrent",
        "cell": "lstm",
        "features": Fact("features"),
        "outputs": Fact("outputs"),
        "hidden_size": 3,
        "vocabulary": Fact("tokens.size"),
    }
    assert instantiate.required_facts(node, "model") == ["features", "outputs"]
