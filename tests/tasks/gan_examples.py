"""Small GANs, and their losses computed with the formulas of the papers."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dltrain.models.gan import DCGAN, GAN


def point_gan(seed: int = 0, **rest: Any) -> GAN:
    torch.manual_seed(seed)
    return GAN([2], 2, 1, latent=4, hidden_size=16, num_layers=2, **rest)


def image_gan(**rest: Any) -> DCGAN:
    torch.manual_seed(0)
    return DCGAN(1, 8, 8, 1, latent=4, hidden_size=4, **rest)


def losses_by_hand(name: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses of critic and generator, computed with the formulas of the papers."""
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    if name == "non_saturating":
        critic = F.binary_cross_entropy(real.sigmoid(), one) + F.binary_cross_entropy(fake.sigmoid(), zero)
        return critic, -fake.sigmoid().log().mean()
    if name == "least_squares":
        return F.mse_loss(real, one) / 2 + F.mse_loss(fake, zero) / 2, F.mse_loss(fake, one) / 2
    if name == "hinge":
        parts = [-torch.minimum(zero, -1 + real).mean(), -torch.minimum(zero, -1 - fake).mean()]
        return parts[0] + parts[1], -fake.mean()
    return -(real.mean() - fake.mean()), -fake.mean()
