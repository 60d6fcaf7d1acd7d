"""What generator and critic play for: four games, and the penalty that keeps a critic's slope at one."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from dltrain.errors import ConfigError, format_error, suggest


class Game(NamedTuple):
    """The losses of both, of the critic's outputs (B,) on real and on made-up examples.

    Args:
        critic: Of the outputs on real ones and those on made-up ones.
        generator: Of the outputs on made-up ones.
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


# non_saturating: Goodfellow et al. 2014, equation 1 and the end of section 3, on logits.
# least_squares: Mao et al. 2017, equation 9: real ones are worth 1, made-up ones 0.
# hinge: Lim and Ye 2017; Miyato et al. 2018, equations 16 and 17.
# wasserstein: Arjovsky et al. 2017, equations 2 and 3; it needs a critic whose slope is bounded.
GAMES: Mapping[str, Game] = {
    "non_saturating": Game(
        lambda real, fake: softplus(-real).mean() + softplus(fake).mean(), lambda fake: softplus(-fake).mean()
    ),
    "least_squares": Game(
        lambda real, fake: ((real - 1).square().mean() + fake.square().mean()) / 2,
        lambda fake: (fake - 1).square().mean() / 2,
    ),
    "hinge": Game(lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(), lambda fake: -fake.mean()),
    "wasserstein": Game(lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean()),
}


def find_game(name: str) -> Game:
    """A game by the name of its loss.

    Raises:
        ConfigError: With the nearest name.
    """
    if name not in GAMES:
        raise ConfigError(format_error("task.loss_name", f"one of {' '.join(GAMES)}", name, suggest(name, GAMES)))
    return GAMES[name]


def gradient_penalty(model: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
    r"""The mean of :math:`(|\nabla_x D(x)| - 1)^2` at random places between real and made-up examples.

    In full precision, as a gradient of a gradient has lost most digits of bf16; and past `torch.compile`, whose graphs
    have a gradient only once: ``forward`` is the critic as it was written.

    Args:
        model: What its critic says of one example must not depend on the others.
        real: Real examples.
        fake: As many made-up ones, without a graph.
        labels: Classes of both, or None.

    Source: Gulrajani et al. 2017, "Improved training of Wasserstein GANs", equation 3 and algorithm 1.
    """
    share = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    places = torch.lerp(real.float(), fake.float(), share).requires_grad_()
    with torch.autocast(places.device.type, enabled=False):
        outputs = model.critic.forward(places, labels)  # type: ignore[union-attr]
        (slopes,) = torch.autograd.grad(outputs.sum(), places, create_graph=True)  # under autocast, it would be rounded
    return (torch.linalg.vector_norm(slopes.flatten(1), dim=1) - 1).square().mean()
