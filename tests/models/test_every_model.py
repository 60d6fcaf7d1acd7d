"""Properties of all models, built from their YAML files."""

import functools
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from dltrain.training.device import Device
from dltrain.training.precision import use_fp32_where_needed

CONF = Path(__file__).parents[2] / "conf" / "model"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
# Built only in slow tests: larger variants of a class, large networks, and networks of an optional package.
LARGER = {f"resnet{layers}" for layers in (34, 50, 101, 152, 32, 44, 56, 110)} | {"fcn", "r3d_18", "r2plus1d_18"}
LARGER |= {"bert_base", "bert_minilm", "gpt_nano", "gpt2", "gpt2_medium"}
LARGER |= {"timm", "alexnet", "googlenet", "inception_v3", *(f"vgg{layers}" for layers in (11, 13, 16, 19))}
SIZES_OF_GPT = {"gpt_nano", "gpt2", "gpt2_medium"}
# Arguments that make these models small and fast, or fit the examples of these tests.
SMALLER: dict[str, dict[str, Any]] = {
    "timm": {"name": "test_efficientnet"},
    "deeplabv3": {"backbone": "mobilenet_v3_large"},
    "vit": {"num_layers": 2},
    "t5": {"hidden_size": 64, "num_layers": 1},
    "transformer_seq2seq": {"hidden_size": 64, "num_layers": 1},
    "resnet9": {"hidden_size": [8, 16, 24, 32]},
    "cnn": {"hidden_size": [32]},
}
SMALLER |= {"bag_of_words": {"idf": torch.linspace(1, 2, 11)}}
SMALLER |= {"patchtst": {"patch_length": 4, "stride": 2}}
DETECTORS = {"fcos", "retinanet", "ssdlite", "fasterrcnn"}  # they return losses and boxes: see test_detectors.py


@functools.cache
def written(name: str) -> dict[str, Any]:
    """Return the content of a model's YAML file, with unresolved references."""
    return OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))  # type: ignore[return-value]


def without(excluded: set[str], slow: set[str] = LARGER) -> list[Any]:
    """Return the names of the models not in `excluded` as test parameters; the names in `slow` are marked slow."""
    return [pytest.param(n, marks=pytest.mark.slow) if n in slow else n for n in NAMES if n not in excluded]


WITHOUT_DROPOUT = {name for name in NAMES if "dropout" not in written(name)}


BUILT = without(DETECTORS)
# Arguments of rnn, lstm and gru that are None by default; their values in the YAML files differ between the cells.
OF_THE_CELL = ("activation", "forget_bias")
IMAGE = {
    **{"shape": [3, 16, 20], "size": 3 * 16 * 20, "features": 60, "length": 16, "channels": 3, "height": 16},
    **{"width": 20, "classes": 5, "statistics": 2, "visible": 3 * 16 * 20, "lowest": 3 * 16 * 20, "answers": 1},
    "pixel_outputs": 5,
    "object_outputs": 5,
}
CLIP = {"clip": {"channels": 3, "frames": 4, "height": 16, "width": 20}}
VIDEO = ("cnn_lstm", "r3d_18", "r2plus1d_18")
SERIES = {"size": 36, "features": 3, "length": 12, "channels": 1, "height": 1, "width": 1}
TEXT = {"size": None, "features": 11, "length": 12, "outputs": 11, "each_step": True, "causal": True}
TEXT |= {"tokens": {"size": 11}, "target_tokens": {"size": 11}}
HIDDEN = TEXT | {"causal": False}
WINDOWS = {"length": 12, "features": 3, "columns": 3, "horizon": 4, "outputs": 12}
RECORDINGS = {"audio": {"bands": 9, "frames": 2}, "each_step": True}
PAIRS = {"tokens": {"size": 11}, "target_outputs": 9, "length": 12, "target_length": 9, "shared_vocabulary": False}
TEXTS = {"tokens": {"size": 11}, "idf": None}
# Models that do not read images -> the spec values they are built with.
FACTS = {
    "bag_of_words": TEXTS,
    "bert": HIDDEN,
    "bert_base": HIDDEN,
    "bert_minilm": HIDDEN,
    **dict.fromkeys(("gpt", "gpt_nano", "gpt2", "gpt2_medium"), TEXT),
    "dlinear": WINDOWS,
    "nlinear": WINDOWS,
    "patchtst": WINDOWS,
    "seq2seq_forecaster": WINDOWS,
    "seq2seq": PAIRS,
    "deep_speech2": RECORDINGS,
    "transformer_seq2seq": PAIRS,
    "t5": PAIRS,
} | dict.fromkeys(VIDEO, CLIP)


RESOLVED: dict[tuple[str, int], dict[str, Any]] = {}  # cached: resolving takes as long as building a small model


def target(name: str) -> type[nn.Module]:
    module, _, attribute = written(name)["_target_"].rpartition(".")
    return getattr(import_module(module), attribute)


def arguments_of(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments in a model's YAML file, with references to spec values resolved."""
    spec = {"tokens": {"size": None}, "lags": None, "sentence_pairs": None}
    spec |= {"outputs": 5, "each_step": False, "causal": False, **facts}
    config = OmegaConf.create({"spec": spec, "regularization": {"dropout": 0.0}, "model": written(name)})
    resolved = OmegaConf.to_container(config, resolve=True)["model"]  # type: ignore[index,call-overload]
    arguments = {key: value for key, value in resolved.items() if key not in ("_target_", "defaults")}
    return arguments | ({"stem": "small"} if "stem" in arguments else {})


def build(name: str, facts: dict[str, Any], **changes: object) -> nn.Module:
    key = name, id(facts)  # all spec values are constants of this module
    if key not in RESOLVED:
        RESOLVED[key] = arguments_of(name, facts)
    model = target(name)(**RESOLVED[key] | SMALLER.get(name, {}) | changes)
    return FixedTarget(model) if facts is PAIRS else model


class FixedTarget(nn.Module):
    """Sequence-to-sequence network that reads 0, 1, 2, ... as the previous target tokens of each source."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, torch.arange(9, device=x.device).expand(len(x), -1))


def example(name: str, device: str = "cpu") -> tuple[nn.Module, Tensor]:
    """Return a model and a batch for it: tokens, windows of series, recordings, clips, or images."""
    torch.manual_seed(0)
    facts = FACTS.get(name, IMAGE)
    if any(facts is known for known in (TEXT, HIDDEN, TEXTS, PAIRS)):
        return build(name, facts), torch.randint(0, 11, (4, 12), device=device)
    shapes = {id(WINDOWS): (4, 12, 3), id(RECORDINGS): (4, 12, 18), id(CLIP): (4, 3, 4, 16, 20)}
    return build(name, facts), torch.randn(shapes.get(id(facts), (4, 3, 16, 20)), device=device)


def outputs_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the outputs of a model and, in training, of its auxiliary heads."""
    output = model(x)
    return [output[0], *(value for _, value in output[1].values())] if isinstance(output, tuple) else [output]


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_file_has_exactly_the_arguments_of_the_constructor(name: str) -> None:
    assert written(name).keys() - {"_target_", "defaults"} == inspect.signature(target(name)).parameters.keys()


@pytest.mark.parametrize("name", NAMES)
def test_defaults_in_the_yaml_file_equal_the_constructor_defaults(name: str) -> None:
    node = written(name)
    for key, parameter in inspect.signature(target(name)).parameters.items():
        interpolated = str(node[key]).startswith("${")
        if name in SIZES_OF_GPT and key in ("hidden_size", "num_layers", "num_heads"):
            continue
        if not interpolated and parameter.default is not inspect.Parameter.empty and key not in OF_THE_CELL:
            assert node[key] == parameter.default, key


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_file_starts_with_a_comment(name: str) -> None:
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("name", BUILT)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model, x = example(name)
    sum(output.square().sum() for output in outputs_of(model, x)).backward()
    for key, parameter in model.named_parameters():
        if name == "dbn" and key.endswith("down.bias"):
            continue  # used only in pretraining and sampling
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6, key


@pytest.mark.parametrize("name", without(DETECTORS | WITHOUT_DROPOUT))
def test_dropout_acts_only_in_training(name: str) -> None:
    model, x = build(name, FACTS.get(name, IMAGE), dropout=0.5), example(name)[1]
    assert not torch.equal(outputs_of(model, x)[0], outputs_of(model, x)[0])
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", BUILT)
def test_a_model_builds_and_runs_on_the_meta_device(name: str) -> None:
    on_cpu, x = example(name)
    with torch.device("meta"):
        model, y = example(name, "meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert [output.shape for output in outputs_of(model, y)] == [output.shape for output in outputs_of(on_cpu, x)]


# The first bf16 convolution of each shape is slow; deeplabv3 and resnet18 have convolutions of many shapes.
@pytest.mark.parametrize("name", without(DETECTORS, LARGER | {"deeplabv3", "resnet18"}))
def test_outputs_in_bfloat16_are_close_to_float32_and_gradients_are_finite(name: str) -> None:
    model, x = example(name)
    if any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in model.modules()):
        model.eval()  # batch statistics of few pixels amplify rounding errors
    in_fp32 = model(x)
    device = Device(torch.device("cpu"), "bf16", False, False, False)
    use_fp32_where_needed(model, device)  # older CPUs do not support LSTM in bf16
    with device.autocast():
        in_bf16 = model(x)
    in_bf16.float().sum().backward()
    assert not torch.equal(in_bf16.float(), in_fp32), "no layer computes in bf16"
    torch.testing.assert_close(in_bf16.float(), in_fp32, atol=0.03, rtol=0.05)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", BUILT)
def test_saved_weights_load_and_contain_each_parameter_once(name: str) -> None:
    model, x = example(name)
    state = model.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    torch.manual_seed(1)
    other = build(name, FACTS.get(name, IMAGE))
    model.eval(), other.eval()
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(state)
    assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "transformer", "mlp", "perceptron"])
def test_models_of_series_have_one_vector_of_outputs_per_example(name: str) -> None:
    assert build(name, SERIES)(torch.randn(4, 12, 3)).shape == (4, 5)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "transformer", "gpt"])
def test_models_of_tokens_have_an_output_at_each_step(name: str) -> None:
    assert build(name, TEXT)(torch.randint(0, 11, (4, 12))).shape == (4, 12, 11)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "transformer", "gpt"])
def test_outputs_of_a_causal_model_do_not_depend_on_later_tokens(name: str) -> None:
    model = build(name, TEXT).eval()
    tokens = torch.randint(0, 11, (3, 12))
    before = model(tokens)
    for step in range(12):
        changed = tokens.clone()
        changed[:, step] = (changed[:, step] + 1) % 11
        difference = (model(changed) - before).abs().amax(dim=(0, 2))
        assert difference[:step].sum() == 0, f"token {step} changes earlier outputs"
        assert difference[step:].min() > 0, f"token {step} does not change all later outputs"


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "transformer"])
def test_sequence_models_read_the_rows_of_an_image_as_steps(name: str) -> None:
    model = build(name, IMAGE)
    image = torch.randn(2, 3, 16, 20)
    rows = torch.stack([image[:, :, row].reshape(2, 60) for row in range(16)], dim=1)
    assert torch.equal(model(image), model(rows))
    channels_last = image.contiguous(memory_format=torch.channels_last)
    assert torch.equal(model(channels_last), model(rows))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in DETECTORS])
def test_a_compiled_model_gives_the_same_outputs(name: str) -> None:
    model, x = example(name)
    if any(isinstance(module, nn.Dropout) for module in model.modules()):
        model.eval()
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), model(x))
