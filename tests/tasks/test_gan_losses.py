"""GAN losses, compared with the papers' formulas, and the gradient penalty, compared with finite differences."""

import copy

import pytest
import torch
from gan_examples import image_gan, losses_by_hand, point_gan
from torch import Tensor, nn

from dltrain.tasks.gan_losses import GAN_LOSSES, gradient_penalty


@pytest.mark.parametrize("name", sorted(GAN_LOSSES))
def test_losses_equal_their_closed_forms(name: str) -> None:
    real, fake = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    critic, generator = losses_by_hand(name, real, fake)
    torch.testing.assert_close(GAN_LOSSES[name].critic(real, fake), critic)
    torch.testing.assert_close(GAN_LOSSES[name].generator(fake), generator)


def penalty_by_differences(critic: nn.Module, points: Tensor, step: float = 1e-5) -> Tensor:
    """Return the gradient penalty, computed with central differences of the critic in double precision."""
    flat, slopes = points.flatten(1), []
    for axis in range(flat.shape[1]):
        moved = torch.zeros_like(flat)
        moved[:, axis] = step
        ahead, behind = (critic((flat + s * moved).view_as(points), None).flatten() for s in (1, -1))
        slopes.append((ahead - behind) / (2 * step))
    return (torch.stack(slopes, 1).norm(dim=1) - 1).square().mean()


def points_between(real: Tensor, fake: Tensor) -> Tensor:
    torch.manual_seed(3)
    share = torch.rand(len(real), *[1] * (real.dim() - 1))
    return (1 - share) * real + share * fake


@pytest.mark.parametrize("kind", ["points", "images"])
def test_the_gradient_penalty_and_its_gradient_equal_finite_differences(kind: str) -> None:
    model = point_gan(activation="tanh") if kind == "points" else image_gan(critic_norm="layer")
    shape = (2,) if kind == "points" else (1, 8, 8)
    real, fake = torch.randn(2, 6, *shape, generator=torch.Generator().manual_seed(2))
    exact, points = copy.deepcopy(model).double(), points_between(real, fake).double()
    torch.manual_seed(3)
    penalty = gradient_penalty(model, real, fake, None)
    assert penalty.item() == pytest.approx(penalty_by_differences(exact.critic, points).item(), rel=1e-4)
    weight = next(p for p in model.critic.parameters())
    (gradient,) = torch.autograd.grad(penalty, weight)
    index, perturbed = (0,) * weight.dim(), next(p for p in exact.critic.parameters())
    sides = []
    for step in (1e-4, -1e-4):
        with torch.no_grad():
            perturbed[index] += step
            sides.append(penalty_by_differences(exact.critic, points))
            perturbed[index] -= step
    assert gradient[index].item() == pytest.approx(((sides[0] - sides[1]) / 2e-4).item(), rel=1e-2, abs=1e-5)


def test_the_gradient_penalty_is_the_same_under_autocast() -> None:
    model, (real, fake) = point_gan(), torch.randn(2, 6, 2)
    torch.manual_seed(3)
    exact = gradient_penalty(model, real, fake, None)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(3)
        assert torch.equal(gradient_penalty(model, real, fake, None), exact)
