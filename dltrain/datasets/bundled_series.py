"""Units and seasons of the bundled series."""

from typing import NamedTuple


class BundledSeries(NamedTuple):
    """Unit of the values and length of the season in steps of a bundled series."""

    unit: str
    season: int


SERIES = {
    "co2": BundledSeries("ppm", 52),
    "elnino": BundledSeries("°C", 12),
    "sunspots": BundledSeries("sunspots", 11),
}
