"""Grad-CAM: maps and gradients computed by hand, numerical derivatives, and the choice of the layer."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.tasks.classification import Classification
from dltrain.tasks.grad_cam import grad_cam


class TwoMaps(nn.Module):
    """Model whose feature maps are the image and its negative; scores are weighted sums of their means."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 2, 1, bias=False)
        self.maps.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        self.weights = torch.tensor(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).mean((2, 3)) @ self.weights.T


def test_the_heat_equals_a_calculation_by_hand() -> None:
    # Class 0: 3 mean(x) + 1 mean(-x); class 1: -3 mean(x) + 1 mean(-x).
    model = TwoMaps([[3.0, 1.0], [-3.0, 1.0]])
    bright = torch.tensor([[4.0, 1.0], [-1.0, 2.0]])  # mean 1.5: scores 3 and -6, so class 0
    dark = -bright  # scores -3 and 6, so class 1
    images = torch.stack([bright, dark])[:, None]
    # Gradients of the score with respect to each pixel of the two maps: 3/4 and 1/4 for class 0, -3/4 and 1/4 for
    # class 1. The weighted sums of the maps x and -x are therefore x / 2 and -x.
    expected = torch.stack([bright / 2, -dark]).relu()
    expected = expected / expected.amax((1, 2), keepdim=True)
    assert torch.equal(expected[0], torch.tensor([[1.0, 0.25], [0.0, 0.5]]))
    torch.testing.assert_close(grad_cam(model, images, model), expected)


def test_the_heat_is_enlarged_to_the_image_and_is_0_if_nothing_supports_the_class() -> None:
    model = nn.Sequential(nn.AvgPool2d(2), TwoMaps([[1.0, 0.0], [0.0, -9.0]]))
    x = torch.rand(1, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    heat = grad_cam(model, x, model)
    small = F.avg_pool2d(x, 2)  # class 1: -9 * mean(-x), gradient -9/6 on the map -x
    expected = F.interpolate(small, (4, 6), mode="bilinear")[:, 0]
    torch.testing.assert_close(heat, expected / expected.max())
    against = nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    for parameter in against.parameters():
        nn.init.constant_(parameter, -1.0)
    assert not grad_cam(against, x, lambda images: -against(images).square() * torch.tensor([1.0, 2.0])).any()


def test_the_weights_of_the_maps_equal_numerical_derivatives() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh()).double()
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 9, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    maps, step = body(x).detach(), 1e-6
    best = head(maps).argmax()
    gradient = torch.zeros_like(maps)
    for index in range(maps.numel()):
        moved = [maps.clone(), maps.clone()]
        moved[0].view(-1)[index] += step
        moved[1].view(-1)[index] -= step
        scores = [head(changed)[0, best] for changed in moved]
        gradient.view(-1)[index] = (scores[0] - scores[1]) / (2 * step)
    sums = (gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu().float()
    expected = F.interpolate(sums, (5, 5), mode="bilinear")[:, 0]
    model = nn.Sequential(body, head)
    torch.testing.assert_close(grad_cam(model, x, model), expected / expected.max(), atol=1e-5, rtol=1e-5)


def test_maps_of_one_pixel_and_pooling_to_a_fixed_size_are_ignored() -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(1, 2, 3, padding=1)
    rest = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Conv2d(2, 2, 7), nn.Flatten(), nn.Linear(2, 2))
    model, x = nn.Sequential(first, rest), torch.randn(1, 1, 4, 4)
    seen: list[Tensor] = []
    first.register_forward_hook(lambda module, inputs, output: seen.append(output))
    heat = grad_cam(model, x, model)
    (gradient,) = torch.autograd.grad(rest(seen[0]).max(), seen[0])
    sums = (gradient.mean((2, 3), keepdim=True) * seen[0]).sum(1).relu()
    torch.testing.assert_close(heat, (sums / sums.max().clamp(min=1e-30)).detach())


def test_an_explanation_computed_in_inference_mode_leaves_no_gradients_or_hooks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(18, 3)).eval()
    task = Classification(3)
    with torch.inference_mode():
        batch = {"inputs": torch.randn(2, 1, 5, 5)}
        heat = task.explain(model, batch)
    assert heat.shape == (2, 5, 5) and heat.amax() <= 1
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_models_without_feature_maps_are_rejected() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match=r"^--explain: not supported because this model has no feature maps"):
        grad_cam(model, torch.randn(1, 1, 2, 2), model)
    with pytest.raises(ConfigError, match=r"^--explain: not supported because the inputs of this model are not images"):
        grad_cam(model, torch.randn(1, 4), model)
