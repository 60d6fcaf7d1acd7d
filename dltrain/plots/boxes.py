"""Images with boxes drawn on them."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dltrain.plots.charts import CLASS_COLORS

COLORS = CLASS_COLORS[1:]
MIN_FONT, MIN_LINE = 12, 2  # size of captions and width of outlines in small images, in pixels


def draw(
    image: Image.Image, boxes: Sequence[Sequence[float]], numbers: Sequence[int], captions: Sequence[str]
) -> Image.Image:
    """Return an RGB copy with the outline of each box and a caption at its upper left corner.

    Args:
        boxes: Left, top, right and bottom in pixels.
        numbers: Index of the color of each box; colors repeat.
        captions: One per box; the empty string for none.
    """
    drawn = image.convert("RGB")
    pen, line = ImageDraw.Draw(drawn), max(MIN_LINE, max(drawn.size) // 400)
    font = ImageFont.load_default(max(MIN_FONT, max(drawn.size) // 60))
    for (left, top, right, bottom), number, caption in zip(boxes, numbers, captions, strict=True):
        color = COLORS[number % len(COLORS)]
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=line)
        if caption:
            place = pen.textbbox((left, top), caption, font, anchor="lb" if top > 2 * MIN_FONT else "lt")
            pen.rectangle(place, fill=color)
            pen.text((left, top), caption, "black", font, anchor="lb" if top > 2 * MIN_FONT else "lt")
    return drawn


def draw_enlarged(image: Tensor, boxes: Tensor, numbers: Sequence[int], captions: Sequence[str], side: int) -> Tensor:
    """Return an image (3, height, width) in [0, 1] with boxes drawn on it.

    Small images are enlarged by the largest integer factor that keeps both sides within `side` pixels.
    """
    scale = max(1, side // max(image.shape[1:]))
    pixels = image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    enlarged = Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1))
    drawn = draw(enlarged, (boxes * scale).tolist(), numbers, captions)
    return torch.from_numpy(np.array(drawn)).permute(2, 0, 1).float() / 255
