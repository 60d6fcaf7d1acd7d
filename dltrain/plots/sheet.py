"""A white sheet to draw on with Pillow: text, pictures and smooth lines, in colours that everybody can tell apart."""

import math
from collections.abc import Sequence
from functools import cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Colour = tuple[int, int, int]
Point = tuple[float, float]
Stroke = tuple[Sequence[Point], Colour, float]
Dot = tuple[Point, Colour, float]

# Blue and orange stay apart for colour-blind readers. Source: Okabe, Ito 2008, "Color Universal Design".
BLUE: Colour = (0, 114, 178)
ORANGE: Colour = (213, 94, 0)
INK: Colour = (32, 33, 36)
DIM: Colour = (95, 99, 104)
GREY: Colour = (150, 155, 160)
FAINT: Colour = (226, 229, 233)
WHITE: Colour = (255, 255, 255)

SIZE = 13  # of text, in pixels
SMALL = 11
SMOOTH = 3  # lines are drawn this many times larger and averaged down
VEIL = 170  # of 255: how opaque a dot is, so that many in one place can be told from one


class Sheet:
    """A white picture of a size in pixels; lines lie below everything else, and dots on them.

    Args:
        width: In pixels.
        height: In pixels.
        strokes: Lines as points, colour and width. Pillow's own have stairs, these are averaged.
        dots: Discs as centre, colour and radius; what lies below them shines through.
    """

    def __init__(self, width: int, height: int, strokes: Sequence[Stroke] = (), dots: Sequence[Dot] = ()) -> None:
        times = SMOOTH if strokes or dots else 1
        self.image = Image.new("RGB", (width * times, height * times), WHITE)
        draw = ImageDraw.Draw(self.image)
        for points, colour, thickness in strokes:
            scaled = [(round(x * times) + times // 2, round(y * times) + times // 2) for x, y in points]
            draw.line(scaled, colour, round(thickness * times), joint="curve")
        veiled = ImageDraw.Draw(self.image, "RGBA")
        for (x, y), colour, radius in dots:
            corners = [times * (place + side) + times // 2 for side in (-radius, radius) for place in (x, y)]
            veiled.ellipse(corners, (*colour, VEIL))
        self.image = self.image.reduce(times)

    def write(self, x: int, y: int, text: str, anchor: str = "lm", size: int = SIZE, colour: Colour = INK) -> None:
        """Write at a point of the text that ``anchor`` names in Pillow's two letters."""
        ImageDraw.Draw(self.image).text((x, y), text, colour, font(size), anchor)

    def write_upwards(self, x: int, y: int, text: str, anchor: str, size: int = SIZE, colour: Colour = INK) -> None:
        """Write from below to above, centred on x; y is the upper end (``t``) or the middle (``m``)."""
        mask = Image.new("L", (width_of(text, size) + 2, size + 4))
        ImageDraw.Draw(mask).text((1, size // 2 + 2), text, 255, font(size), "lm")
        mask = mask.rotate(90, expand=True)
        self.image.paste(colour, (x - mask.width // 2, y - (mask.height // 2 if anchor == "m" else 0)), mask)

    def paste(self, x: int, y: int, picture: Image.Image | Tensor) -> None:
        """Put a picture (a tensor is uint8, height x width x 3) with its upper left corner at a point."""
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture.contiguous().numpy())
        self.image.paste(image, (x, y))

    def tensor(self) -> Tensor:
        """The sheet as uint8, 3 x height x width."""
        flat = torch.frombuffer(bytearray(self.image.tobytes()), dtype=torch.uint8)
        return flat.view(self.image.height, self.image.width, 3).permute(2, 0, 1).contiguous()


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, the same on every machine."""
    return ImageFont.load_default(size)


def width_of(text: str, size: int = SIZE) -> int:
    """Width of a line of text, in pixels."""
    return math.ceil(font(size).getlength(text))


def fit(text: str, width: int, size: int = SIZE) -> str:
    """The text on one line, shortened until it is no wider than ``width`` pixels."""
    text = text.replace("\n", " ")
    if width_of(text, size) <= width:
        return text
    while text and width_of(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."
