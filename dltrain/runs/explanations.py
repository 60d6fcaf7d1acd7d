"""Predictions of images, each with a picture of the parts that support its class."""

from collections.abc import Iterator

from dltrain.data.loader import Batches
from dltrain.plots.heat import overlay
from dltrain.runs.assemble import Components
from dltrain.tasks.base import Line
from dltrain.tasks.pixel_range import PixelRange


def explained(components: Components, batches: Batches) -> Iterator[Line]:
    """Yield the predictions of images, each with a picture ``explanation``, uint8 (3, height, width)."""
    task, model, spec = components.task, components.model, components.data.spec
    pixel_range = PixelRange(spec.low, spec.high)
    for batch in batches:
        heat = task.explain(model, batch)
        pictures = overlay(pixel_range.to_unit(batch["inputs"]), heat)
        for line, picture in zip(task.predict(model, batch), pictures, strict=True):
            yield {**line, "explanation": picture}
