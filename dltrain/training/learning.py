"""Select the parameters that a stage trains, and set each module to training or evaluation mode accordingly."""

from torch import nn

from dltrain.tasks.base import Stage


def set_learning(model: nn.Module, stage: Stage) -> None:
    """Enable gradients only for the parameters that the stage trains, and set the mode of each module."""
    owned = {id(p) for turn in stage.turns for p in turn.parameters}
    for parameter in model.parameters():
        if parameter.requires_grad != (id(parameter) in owned):
            parameter.requires_grad_(id(parameter) in owned)
    train_mode(model)


def train_mode(model: nn.Module) -> None:
    """Set each module to training mode, or to evaluation mode if all its parameters are frozen.

    This keeps the running statistics of frozen normalization layers, and disables dropout in frozen modules.
    """
    model.train()
    if all(p.requires_grad for p in model.parameters()):
        return
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
