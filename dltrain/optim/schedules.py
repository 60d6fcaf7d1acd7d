"""How the learning rate moves over a run: factors on the optimizer's own rate, pure functions of the step."""

from math import cos, isnan, pi
from typing import Any, Literal


class Schedule:
    """A rate that stays, after a linear rise.

    Args:
        warmup: Steps of linear rise from ``1 / warmup`` to 1; a value between 0 and 1 is a fraction of all steps.
    """

    def __init__(self, warmup: float = 0) -> None:
        self.warmup = warmup

    def factor(self, step: int, steps: int) -> float:
        """What the optimizer's learning rate is multiplied by in the step numbered from 0, of ``steps`` in all."""
        rise = in_steps(self.warmup, steps)
        return (step + 1) / rise if step < rise else 1.0

    def momentum(self, step: int, steps: int) -> float | None:
        """The momentum (or Adam's beta1) of this step; None leaves it as the optimizer has it."""
        return None

    def observe(self, metric: float, better: Literal["min", "max"]) -> None:
        """Hear the watched metric after an evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know besides the step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` said."""


class Constant(Schedule):
    """The optimizer's own rate throughout, after a linear rise."""


class Step(Schedule):
    """Cut the rate at regular intervals.

    Args:
        step_size: Steps between two cuts; a value between 0 and 1 is a fraction of all steps.
        gamma: What each cut multiplies the rate by, between 0 and 1.
        warmup: See `Schedule`; cuts are counted from the start of the run.

    Source: He et al. 2016, "Deep residual learning for image recognition", section 3.4.
    """

    def __init__(self, step_size: float, gamma: float = 0.1, warmup: float = 0) -> None:
        super().__init__(warmup)
        self.step_size = step_size
        self.gamma = gamma

    def factor(self, step: int, steps: int) -> float:
        """Falls by the same ratio at each cut."""
        cuts = step // max(1, in_steps(self.step_size, steps))
        return super().factor(step, steps) * self.gamma**cuts


class Cosine(Schedule):
    """Half a cosine from the full rate down to ``end_factor``.

    Args:
        end_factor: Factor that the end of the run approaches, between 0 and 1.
        warmup: See `Schedule`; the cosine spans the steps after it.

    Source: Loshchilov, Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", equation 5, one cycle.
    """

    def __init__(self, end_factor: float = 0.0, warmup: float = 0) -> None:
        super().__init__(warmup)
        self.end_factor = end_factor

    def factor(self, step: int, steps: int) -> float:
        """Rises while warming up, then falls."""
        rise = in_steps(self.warmup, steps)
        if step < rise:
            return super().factor(step, steps)
        return between(1.0, self.end_factor, (step - rise) / max(1, steps - rise))


class OneCycle(Schedule):
    """Up to the full rate, then down to almost nothing, with momentum moving the other way.

    Args:
        pct_start: Fraction of all steps in which the rate rises, between 0 and 1.
        start_factor: Factor of the first step.
        end_factor: Factor of the last step.
        momentum: Lowest and highest momentum; the lowest goes with the highest rate. None leaves momentum alone.

    Source: Smith, Topin 2018, "Super-convergence"; the cosine form of fastai and torch.
    Differs: an optimizer that runs without momentum (plain SGD) is left without.
    """

    def __init__(
        self,
        pct_start: float = 0.3,
        start_factor: float = 0.04,
        end_factor: float = 4e-6,
        momentum: tuple[float, float] | None = (0.85, 0.95),
    ) -> None:
        super().__init__()
        self.pct_start = pct_start
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.range = momentum

    def factor(self, step: int, steps: int) -> float:
        """From ``start_factor`` to 1 to ``end_factor`` along two half cosines."""
        return self._cycle(step, steps, self.start_factor, 1.0, self.end_factor)

    def momentum(self, step: int, steps: int) -> float | None:
        """From the highest to the lowest and back."""
        if self.range is None:
            return None
        low, high = self.range
        return self._cycle(step, steps, high, low, high)

    def _cycle(self, step: int, steps: int, start: float, top: float, end: float) -> float:
        peak = max(0.0, self.pct_start * steps - 1)
        last = max(1, steps - 1)
        if step <= peak and peak > 0:
            return between(start, top, step / peak)
        return between(top, end, (step - peak) / max(1.0, last - peak))


class Noam(Schedule):
    """A linear rise, then a fall with the inverse square root of the step.

    The factor is the paper's whole learning rate, so the optimizer's own rate is a multiplier near 1.

    Args:
        width: Width of the model (``d_model``).
        warmup: Steps of rise; a value between 0 and 1 is a fraction of all steps.

    Source: Vaswani et al. 2017, "Attention is all you need", equation 3.
    """

    def __init__(self, width: int, warmup: float = 4000) -> None:
        super().__init__(warmup)
        self.width = width

    def factor(self, step: int, steps: int) -> float:
        """``width^-0.5 * min(s^-0.5, s * warmup^-1.5)`` with s counted from 1."""
        number = step + 1
        rise = max(1, in_steps(self.warmup, steps))
        return self.width**-0.5 * min(number**-0.5, number * rise**-1.5)


class Plateau(Schedule):
    """Cut the rate when the watched metric stops getting better.

    Args:
        factor: What each cut multiplies the rate by, between 0 and 1.
        patience: Evaluations without improvement that are let pass before a cut.
        threshold: Smallest improvement that counts, relative to the best metric so far.
        warmup: See `Schedule`.

    Source: torch.optim.lr_scheduler.ReduceLROnPlateau with a relative threshold.
    Differs: the threshold is taken of the metric's size, so that negative metrics work too.
    """

    def __init__(self, factor: float = 0.1, patience: int = 10, threshold: float = 1e-4, warmup: float = 0) -> None:
        super().__init__(warmup)
        self.cut = factor
        self.patience = patience
        self.threshold = threshold
        self.scale = 1.0
        self.best: float | None = None
        self.waited = 0

    def factor(self, step: int, steps: int) -> float:
        """Depends on the metrics heard so far, which `state_dict` keeps."""
        return super().factor(step, steps) * self.scale

    def observe(self, metric: float, better: Literal["min", "max"]) -> None:
        """Cut once more than ``patience`` evaluations in a row were no better."""
        if self._improves(metric, better):
            self.best = metric
            self.waited = 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.scale *= self.cut
            self.waited = 0

    def _improves(self, metric: float, better: Literal["min", "max"]) -> bool:
        if self.best is None:
            return not isnan(metric)
        margin = self.threshold * abs(self.best)
        return metric < self.best - margin if better == "min" else metric > self.best + margin

    def state_dict(self) -> dict[str, Any]:
        """The cuts made and the metric waited on."""
        return {"scale": self.scale, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on waiting where the run stopped."""
        self.scale, self.best, self.waited = state["scale"], state["best"], state["waited"]


def in_steps(span: float, steps: int) -> int:
    """A span given in steps, or between 0 and 1 as a fraction of all steps."""
    return round(span * steps) if 0 < span < 1 else int(span)


def between(start: float, end: float, progress: float) -> float:
    """Along half a cosine from ``start`` to ``end`` as progress goes from 0 to 1."""
    return end + (start - end) * (1 + cos(pi * min(1.0, progress))) / 2
