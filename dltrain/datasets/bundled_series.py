"""Units and seasons of the bundled series."""

from typing import NamedTuple


class BundledSeries(NamedTuple):
    """Unit of a bundled series, and length of its season in steps."""

    unit: str
    season: int


SERIES = {
    "co2": BundledSeries("ppm", 52),
    "elnino": BundledSeries("°C", 12),
    "sunspots": BundledSeries("sunspots", 11),
}
