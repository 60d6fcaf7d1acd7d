"""Predictions with explanations: pixels that support the predicted class, or weights of the words of a text."""

from collections.abc import Iterator

from dltrain.data.loader import Batches
from dltrain.plots.heat import overlay
from dltrain.runs.assemble import Components
from dltrain.tasks.base import Line
from dltrain.tasks.pixel_range import PixelRange


def explained(components: Components, batches: Batches) -> Iterator[Line]:
    """Yield predictions with explanations.

    A prediction for an image has ``explanation``, an image, uint8 (3, height, width). A prediction for a text has
    ``words``, the words with their weights.
    """
    task, model, spec = components.task, components.model, components.data.spec
    pixel_range = PixelRange(spec.low, spec.high)
    for batch in batches:
        heat = task.explain(model, batch)
        if isinstance(heat, list):
            lines = zip(task.predict(model, batch), heat, strict=True)
            yield from ({**line, "words": words} for line, words in lines)
            continue
        pictures = overlay(pixel_range.to_unit(batch["inputs"]), heat)
        for line, picture in zip(task.predict(model, batch), pictures, strict=True):
            yield {**line, "explanation": picture}
