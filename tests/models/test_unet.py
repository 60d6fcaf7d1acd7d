import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.models.unet import UNet


def test_images_of_any_size_give_outputs_of_the_same_size() -> None:
    model = UNet(1, 3, [4, 8, 8])
    for height, width in ((16, 24), (17, 23), (5, 4)):
        assert model(torch.randn(2, 1, height, width)).shape == (2, 3, height, width)


def test_the_output_equals_the_same_layers_applied_one_by_one() -> None:
    torch.manual_seed(0)
    model = UNet(2, 3, [4, 6], norm="none").eval()
    x = torch.randn(2, 2, 8, 8)
    state = model.state_dict()

    def double(x: torch.Tensor, name: str) -> torch.Tensor:
        for layer in (0, 3):
            x = F.relu(F.conv2d(x, state[f"{name}.{layer}.weight"], state[f"{name}.{layer}.bias"], padding=1))
        return x

    high = double(x, "down.0")
    low = double(nn.MaxPool2d(2)(high), "down.1")
    risen = F.conv_transpose2d(low, state["enlarge.0.weight"], state["enlarge.0.bias"], stride=2)
    joined = double(torch.cat([high, risen], 1), "up.0")
    torch.testing.assert_close(model(x), F.conv2d(joined, state["output.weight"], state["output.bias"]))


def test_the_receptive_field_of_an_output_pixel_is_bounded_and_includes_distant_pixels() -> None:
    torch.manual_seed(0)
    model = UNet(1, 2, [4, 8, 8], norm="none").eval()
    x = torch.randn(1, 1, 96, 96, requires_grad=True)
    model(x)[0, 0, 48, 48].backward()
    seen = x.grad[0, 0] != 0
    assert seen[48, 48] and seen[48, 36] and not seen[48, 10]


def test_an_empty_hidden_size_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"model\.hidden_size: expected a list of at least one number"):
        UNet(1, 2, [])
