"""Which parameters learn in a stage, and the mode of each module that follows from it."""

from torch import nn

from dltrain.tasks.base import Stage


def set_learning(model: nn.Module, stage: Stage) -> None:
    """Require gradients of exactly the parameters that the turns of a stage own, and set the modes that follow."""
    owned = {id(p) for turn in stage.turns for p in turn.parameters}
    for parameter in model.parameters():
        if parameter.requires_grad != (id(parameter) in owned):
            parameter.requires_grad_(id(parameter) in owned)
    train_mode(model)


def train_mode(model: nn.Module) -> None:
    """Set training mode, and evaluation mode for each module that has parameters of which none learns.

    So the statistics of frozen norms stay as they are, and dropout within frozen modules is off.
    """
    model.train()
    if all(p.requires_grad for p in model.parameters()):
        return
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
