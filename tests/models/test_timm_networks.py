"""Networks of timm: outputs compared with those of timm, image sizes and errors."""

import sys

import pytest
import torch
from torch import nn

from dltrain.errors import ConfigError
from dltrain.models.timm_networks import TimmNetwork


def test_the_error_without_timm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # makes `import timm` fail
    with pytest.raises(ConfigError, match=r"^model: not supported because the package timm is not .*\[timm\]'$"):
        TimmNetwork(3, 32, 32, 10, "convnext_tiny")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_parameter_names_and_outputs_equal_those_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    size = {"img_size": (64, 96)} if "vit" in name else {}
    reference = timm.create_model(name, pretrained=False, num_classes=7, in_chans=1, **size).eval()
    model = TimmNetwork(1, 64, 96, 7, name)
    model.load_state_dict(reference.state_dict())
    x = torch.randn(2, 1, 64, 96)
    assert torch.equal(model.eval()(x), reference(x))
    assert {key for key, _ in model.named_parameters()} == {key for key, _ in reference.named_parameters()}
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.slow
def test_conversion_to_float64_includes_parameters_that_belong_to_no_layer() -> None:
    pytest.importorskip("timm")
    model = TimmNetwork(1, 32, 32, 7, "test_vit").double()
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(torch.randn(1, 1, 32, 32, dtype=torch.float64)).shape == (1, 7)


@pytest.mark.slow
def test_dropout_acts_in_training_only() -> None:
    pytest.importorskip("timm")
    model, x = TimmNetwork(3, 32, 32, 7, "test_resnet", dropout=0.5), torch.randn(4, 3, 32, 32)
    for module in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        module.eval()
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("convnext_tny", 64, r"model.name: expected the name of a network of timm, .* Did you mean convnext_tiny\?"),
        ("hf-hub:user/network", 64, r"model.name: expected the name of a network of timm"),
        ("convnext_tiny", 8, r"data: expected images that timm's convnext_tiny can read, got 8x8. .*image_size"),
        ("test_vit", 40, r"data: expected images that timm's test_vit can read, got 40x40. Input height \(40\) should"),
    ],
)
def test_wrong_names_and_sizes_are_rejected(name: str, side: int, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=message) as caught:
        TimmNetwork(3, side, side, 10, name)
    assert len(str(caught.value).splitlines()) == 1
