"""Combine the random changes of single examples: all augmentations except mixup and CutMix."""

from torch import Tensor, nn

from dltrain.datasets.augmentation import Augmentation
from dltrain.datasets.colors import Colors, Fields, Unit
from dltrain.datasets.cutout import Cutout
from dltrain.datasets.geometry import Frame, Geometry
from dltrain.datasets.rand_augment import RandAugment


class Changes(nn.Module):
    """Changes that are applied one after the other.

    Args:
        changes: Modules that take a batch and a key (random seed) for each example, and return the changed batch.
    """

    def __init__(self, changes: list[nn.Module]) -> None:
        super().__init__()
        self.changes = nn.ModuleList(changes)

    def forward(self, batch: Fields, keys: Tensor) -> Fields:
        """Apply the changes to each example of a batch."""
        for change in self.changes:
            batch = change(batch, keys)
        return batch


def make_changes(augmentation: Augmentation, frame: Frame, unit: Unit) -> nn.Module | None:
    """Return the enabled changes (geometry, colors, RandAugment, cutout) as one module; None if all are disabled."""
    changes: list[nn.Module] = [Geometry(augmentation, frame)] if augmentation.moves else []
    if augmentation.brightness or augmentation.contrast or augmentation.saturation:
        changes.append(Colors(augmentation, unit, tuple(frame.images)))
    if augmentation.randaugment:
        changes.append(RandAugment(augmentation.randaugment, augmentation.magnitude, unit, frame))
    if augmentation.erase:
        changes.append(Cutout(augmentation.erase))
    return Changes(changes) if len(changes) > 1 else changes[0] if changes else None
