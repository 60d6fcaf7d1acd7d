"""Networks of torchvision: published sizes, outputs, small stems, auxiliary heads and image sizes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from torch import Tensor, nn

from dltrain.config.instantiate import build
from dltrain.errors import ConfigError
from dltrain.models.torchvision_networks import FAMILIES, AlexNet, InceptionNetwork, TorchvisionNetwork

CONF = Path(__file__).parents[2] / "conf" / "model"
PUBLISHED = {
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "googlenet": 13_004_888,
    "inception_v3": 27_161_264,
}


def make(name: str, channels: int = 3, side: int = 299, outputs: int = 1000, **changes: object) -> nn.Module:
    """Build a network from its YAML file."""
    facts = {"channels": channels, "height": side, "width": side, "outputs": outputs}
    config = OmegaConf.create({"spec": facts, "model": OmegaConf.load(CONF / f"{name}.yaml")})
    return build(OmegaConf.to_container(config, resolve=True)["model"] | changes, "model")


def theirs(name: str, **options: object) -> nn.Module:
    aux = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return getattr(torchvision.models, name)(weights=None, **aux, **options)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.fixture
def meta() -> Iterator[None]:
    """Build networks on the meta device, without memory for weights."""
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.usefixtures("meta")
def test_networks_have_the_published_number_of_parameters_and_the_weight_shapes_of_torchvision(name: str) -> None:
    model = make(name)
    assert parameters(model) == PUBLISHED[name]
    assert shapes(model) == shapes(theirs(name))


@pytest.mark.usefixtures("meta")
def test_networks_without_auxiliary_heads_or_with_batch_norm_have_the_weight_shapes_of_torchvision() -> None:
    without = make("googlenet", aux_weight=0.0)
    assert parameters(without) == 6_624_904
    assert shapes(without) == shapes(theirs("googlenet", aux_logits=False))
    assert shapes(make("vgg11", norm="batch")) == shapes(theirs("vgg11_bn"))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED if name != "resnet18"]


@pytest.mark.parametrize("name", ["resnet18", *SLOW])
def test_outputs_equal_those_of_torchvision_with_the_same_weights(name: str) -> None:
    torch.manual_seed(0)
    reference, side = theirs(name), 299 if name == "inception_v3" else 64
    for norm in (module for module in reference.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=0.1), nn.init.uniform_(norm.running_var, 0.5, 2.0)
    model = make(name, side=side)
    model.load_state_dict(reference.state_dict())
    reference.load_state_dict(model.state_dict())  # torchvision can also load the weights of dltrain
    x = torch.randn(2, 3, side, side + 16)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(x), reference.eval()(x), atol=1e-6, rtol=0)


def test_transform_input_rescales_inputs_as_torchvision_does() -> None:
    torch.manual_seed(0)
    reference = theirs("googlenet", transform_input=True, num_classes=5).eval()
    model = make("googlenet", side=32, outputs=5, transform_input=True).eval()
    model.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), reference(x))
    with pytest.raises(
        ConfigError, match=r"model.transform_input: expected false for images without 3 channels, got true"
    ):
        make("googlenet", channels=1, transform_input=True)


def input_size(model: nn.Module, x: Tensor, layer: str) -> torch.Size:
    """Return height and width of the input of a layer."""
    found: list[torch.Size] = []
    model.get_submodule(layer).register_forward_pre_hook(lambda module, inputs: found.append(inputs[0].shape[2:]))
    model.eval()(x)  # batch statistics are slow on the meta device
    return found[0]


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet18", "layer1"), ("alexnet", "features.3"), ("googlenet", "inception3a"), ("inception_v3", "Mixed_5b")],
)
@pytest.mark.usefixtures("meta")
def test_the_small_stem_keeps_the_size_of_the_image(name: str, layer: str) -> None:
    model = make(name, channels=1, side=28, stem="small")
    assert input_size(model, torch.empty(2, 1, 28, 28), layer) == (28, 28)


@pytest.mark.usefixtures("meta")
def test_a_vgg_with_the_small_stem_pools_images_of_up_to_32_pixels_to_one_pixel() -> None:
    model = make("vgg11", channels=1, side=28, stem="small")
    for side in (1, 8, 28, 32):
        assert input_size(model, torch.empty(2, 1, side, side), "avgpool") == (1, 1)
    assert parameters(make("vgg11")) - parameters(model) == 48 * 512 * 4096 + 2 * 9 * 64


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("name", ["alexnet", "vgg11", "googlenet", "inception_v3"])
@pytest.mark.usefixtures("meta")
def test_images_of_the_smallest_size_are_accepted_and_smaller_images_rejected(name: str, stem: str) -> None:
    plain = {"aux_weight": 0.0} if name == "inception_v3" else {}
    smallest = FAMILIES[name].smallest[stem == "small"]
    model = make(name, side=smallest, stem=stem, **plain).eval()
    model(torch.empty(2, 3, smallest, smallest + 1))
    if smallest == 1:
        return
    with pytest.raises((RuntimeError, ValueError)):
        model(torch.empty(2, 3, smallest - 1, smallest + 1))
    with pytest.raises(ConfigError, match=rf"data: expected images of at least {smallest}x{smallest} pixels"):
        make(name, side=smallest - 1, stem=stem, **plain)


@pytest.mark.usefixtures("meta")
def test_the_auxiliary_head_of_inception_needs_large_images_or_the_small_stem() -> None:
    model = make("inception_v3", side=299)
    assert model.AuxLogits(torch.empty(2, 768, 17, 17)).shape == (2, 1000)
    for side, pixels in ((298, 16), (299, 17)):
        assert input_size(model, torch.empty(2, 3, side, side), "Mixed_7a") == (pixels, pixels)
    with pytest.raises(RuntimeError):
        model.AuxLogits(torch.empty(2, 768, 16, 16))
    with pytest.raises(
        ConfigError, match=r"at least 299x299 pixels for the auxiliary head of inception_v3, got 298x298"
    ):
        make("inception_v3", side=298)
    assert make("inception_v3", side=32, stem="small").AuxLogits(torch.empty(2, 768, 3, 3)).shape == (2, 1000)


def test_auxiliary_outputs_equal_those_of_torchvision_and_have_the_published_loss_weights() -> None:
    torch.manual_seed(0)
    reference, x = theirs("googlenet", num_classes=5, dropout=0.0, dropout_aux=0.0), torch.randn(4, 3, 32, 32)
    model = make("googlenet", side=32, outputs=5, dropout=0.0)
    model.load_state_dict(reference.state_dict())
    for head in ("aux1", "aux2"):
        model.get_submodule(head).dropout.p = 0.0
    outputs, heads = model.train()(x)
    expected = reference.train()(x)
    assert {name: weight for name, (weight, _) in heads.items()} == {"aux1": 0.3, "aux2": 0.3}
    assert torch.equal(outputs, expected.logits)
    assert torch.equal(heads["aux1"][1], expected.aux_logits1) and torch.equal(heads["aux2"][1], expected.aux_logits2)
    assert isinstance(model.eval()(x), Tensor)


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_a_new_first_convolution_is_initialized_like_the_one_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    first = FAMILIES[name].first
    deviation = [
        model.get_submodule(first).weight.std() for model in (make(name, 64, outputs=5), theirs(name, num_classes=5))
    ]
    torch.testing.assert_close(*deviation, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (
            lambda: TorchvisionNetwork(3, 64, 64, 10, "resnet19"),
            r"model.name: expected one of alexnet .*, got resnet19",
        ),
        (lambda: TorchvisionNetwork(3, 64, 64, 10, "resnet18", "tiny"), r"model.stem: expected one of imagenet small"),
        (
            lambda: TorchvisionNetwork(0, 64, 64, 10, "resnet18"),
            r"model.channels: expected a whole number of at least 1",
        ),
        (lambda: AlexNet(3, 64, 64, 10, dropout=1.0), r"model.dropout: expected a number of at least 0 and below 1"),
        (lambda: InceptionNetwork(3, 64, 64, 10, "vgg11", 0.5, 0.3), r"model.name: expected one of googlenet incep"),
    ],
)
def test_wrong_arguments_are_rejected(construct: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        construct()


def test_the_error_for_images_that_are_too_small_names_the_stem_and_their_size() -> None:
    message = "data: expected images of at least 63x63 pixels for alexnet with model.stem=imagenet, got 8x8. Use"
    with pytest.raises(ConfigError, match=message):
        make("alexnet", side=8)
