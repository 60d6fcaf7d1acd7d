"""Losses of generator and critic, and the gradient penalty."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus


class GANLoss(NamedTuple):
    """A pair of losses on the critic's outputs, (B,).

    Args:
        critic: Loss of the critic, as a function of its outputs on real and on generated examples.
        generator: Loss of the generator, as a function of the critic's outputs on generated examples.
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


# non_saturating: Goodfellow et al. 2014, equation 1 and the end of section 3, on logits.
# least_squares: Mao et al. 2017, equation 9, with targets 1 for real and 0 for generated examples.
# hinge: Lim and Ye 2017; Miyato et al. 2018, equations 16 and 17.
# wasserstein: Arjovsky et al. 2017, equations 2 and 3; needs a Lipschitz continuous critic.
GAN_LOSSES: Mapping[str, GANLoss] = {
    "non_saturating": GANLoss(
        lambda real, fake: softplus(-real).mean() + softplus(fake).mean(), lambda fake: softplus(-fake).mean()
    ),
    "least_squares": GANLoss(
        lambda real, fake: ((real - 1).square().mean() + fake.square().mean()) / 2,
        lambda fake: (fake - 1).square().mean() / 2,
    ),
    "hinge": GANLoss(lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(), lambda fake: -fake.mean()),
    "wasserstein": GANLoss(lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean()),
}


def gradient_penalty(model: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
    r"""Return the mean of :math:`(|\nabla_x D(x)| - 1)^2` at random points between real and generated examples.

    The penalty is computed in full precision, because a second derivative in bf16 loses most digits. The
    uncompiled ``critic.forward`` is called, because `torch.compile` does not support second derivatives.

    Args:
        model: Model whose critic treats each example independently (no batch norm).
        fake: Generated examples, detached; the same number as `real`.

    Source: Gulrajani et al. 2017, "Improved training of Wasserstein GANs", equation 3 and algorithm 1.
    """
    share = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    points = torch.lerp(real.float(), fake.float(), share).requires_grad_()
    with torch.autocast(points.device.type, enabled=False):
        outputs = model.critic.forward(points, labels)  # type: ignore[union-attr]
        (slopes,) = torch.autograd.grad(outputs.sum(), points, create_graph=True)
    return (torch.linalg.vector_norm(slopes.flatten(1), dim=1) - 1).square().mean()
