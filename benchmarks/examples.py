"""Training loops modeled on PyTorch's public examples; each step calls `loss.item()`.

Source: pytorch/examples, vae/main.py and dcgan/main.py.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT = 100


class VAE(nn.Module):
    """Variational autoencoder with 400 hidden units and 20 latent variables for images of 784 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(784, 400), nn.Linear(20, 400)
        self.mean, self.log_variance = nn.Linear(400, 20), nn.Linear(400, 20)
        self.pixels = nn.Linear(400, 784)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.lower(x.flatten(1)).relu()
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.pixels(self.upper(code).relu()).sigmoid(), mean, log_variance


def vae(task: Any) -> None:
    """Train with one Adam optimizer; the loss is read and summed in every step."""
    model, seen, step = task.model(), 0.0, 0
    optimizer = torch.optim.Adam(model.parameters(), lr=task.workload.lr)
    model.train()
    while step < task.steps:
        for inputs, _ in task.loader():
            optimizer.zero_grad()
            again, mean, log_variance = model(inputs)
            reconstruction = F.binary_cross_entropy(again, inputs.flatten(1), reduction="sum")
            divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
            loss = reconstruction + divergence
            loss.backward()
            seen += loss.item()
            optimizer.step()
            step += 1
            task.stamp()
            if step == task.steps:
                return


def dcgan(task: Any) -> None:
    """Train with two Adam optimizers; the critic and the generator use the same generated images.

    The generator's backward pass also computes gradients of the critic, which are discarded. Each step prints both
    losses.
    """
    model, step = task.model(), 0
    adams = [torch.optim.Adam(p.parameters(), lr=2e-4, betas=(0.5, 0.999)) for p in (model.critic, model.generator)]
    distance = nn.BCELoss()
    model.train()
    while step < task.steps:
        for real, _ in task.loader():
            ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
            model.critic.zero_grad()
            on_real = distance(model.critic(real).sigmoid().flatten(), ones)
            on_real.backward()
            fake = model.generator(torch.randn(len(real), LATENT)).tanh()
            on_fake = distance(model.critic(fake.detach()).sigmoid().flatten(), zeros)
            on_fake.backward()
            adams[0].step()
            model.generator.zero_grad()
            fooled = distance(model.critic(fake).sigmoid().flatten(), ones)
            fooled.backward()
            adams[1].step()
            step += 1
            task.stamp()
            print(f"step {step} critic {on_real.item() + on_fake.item():.4f} generator {fooled.item():.4f}")
            if step == task.steps:
                return
