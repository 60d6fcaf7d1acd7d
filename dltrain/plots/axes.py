"""Round numbers along an axis."""

import math
from collections.abc import Sequence


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two bounds, at most ``about`` + 1 of them."""
    least = (high - low) / about or 1.0
    power = 10.0 ** math.floor(math.log10(least))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= 0.999 * least)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Ticks as short text, all with the same number of decimals."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    if max(abs(tick) for tick in ticks) >= 1e7 or step < 1e-4:
        return [f"{tick:.3g}" for tick in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{tick:,.{decimals}f}" for tick in ticks]
