"""Learning rate schedules: factors that multiply the learning rate of the optimizer."""

from math import cos, isnan, pi
from typing import Any, Literal


class Schedule:
    """Base class of schedules: a constant rate after a linear warm-up.

    Training has one or more stages; see `dltrain.tasks.base.Stage`. Each stage starts a new schedule and counts its
    steps from 0; "all steps" are the steps of the stage.

    Args:
        warmup: Steps in which the factor rises linearly from ``1 / warmup`` to 1; a value between 0 and 1 is a
            fraction of all steps.
    """

    def __init__(self, warmup: float = 0) -> None:
        self.warmup = warmup

    def factor(self, step: int, steps: int) -> float:
        """Return the learning rate factor at `step`, counted from 0, in a stage of `steps` steps."""
        warmup = to_steps(self.warmup, steps)
        return (step + 1) / warmup if step < warmup else 1.0

    def momentum(self, step: int, steps: int) -> float | None:
        """Return the momentum (or Adam's beta1) at `step`; None keeps the optimizer's momentum."""
        return None

    def observe(self, metric: float, better: Literal["min", "max"]) -> None:
        """Adapt to the monitored metric after an evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that cannot be computed from the step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""


class Constant(Schedule):
    """Constant learning rate after a linear warm-up."""


class Step(Schedule):
    """Step decay: the rate is multiplied by a factor at regular intervals.

    Args:
        step_size: Steps between two reductions; a value between 0 and 1 is a fraction of all steps.
        gamma: Factor of each reduction, between 0 and 1.
        warmup: See `Schedule`; intervals are counted from the start of the stage.

    Source: He et al. 2016, "Deep residual learning for image recognition", section 3.4.
    """

    def __init__(self, step_size: float, gamma: float = 0.1, warmup: float = 0) -> None:
        super().__init__(warmup)
        self.step_size, self.gamma = step_size, gamma

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of the warm-up times ``gamma`` to the power of the number of completed intervals."""
        reductions = step // max(1, to_steps(self.step_size, steps))
        return super().factor(step, steps) * self.gamma**reductions


class Cosine(Schedule):
    """Cosine decay from the full rate to ``end_factor``.

    Args:
        end_factor: Factor approached at the end of the stage, between 0 and 1.
        warmup: See `Schedule`; the cosine spans the steps after it.

    Source: Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", equation 5, one cycle.
    """

    def __init__(self, end_factor: float = 0.0, warmup: float = 0) -> None:
        super().__init__(warmup)
        self.end_factor = end_factor

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of the warm-up and, after the warm-up, the factor of the cosine."""
        warmup = to_steps(self.warmup, steps)
        if step < warmup:
            return super().factor(step, steps)
        return cosine_between(1.0, self.end_factor, (step - warmup) / max(1, steps - warmup))


class OneCycle(Schedule):
    """One cycle: a cosine rise to the full rate and a cosine decay to near zero, with momentum in opposite phase.

    Args:
        pct_start: Fraction of all steps in which the rate rises, between 0 and 1.
        start_factor: Factor of the first step.
        end_factor: Factor of the last step.
        momentum: Lowest and highest momentum; the lowest coincides with the highest rate. None keeps the
            optimizer's momentum.

    Source: Smith and Topin 2018, "Super-convergence"; with half cosines instead of lines, as in fastai and torch.
    Differs: an optimizer without momentum (plain SGD) stays without momentum.
    """

    def __init__(
        self,
        pct_start: float = 0.3,
        start_factor: float = 0.04,
        end_factor: float = 4e-6,
        momentum: tuple[float, float] | None = (0.85, 0.95),
    ) -> None:
        super().__init__()
        self.pct_start, self.start_factor, self.end_factor = pct_start, start_factor, end_factor
        self.range = momentum

    def factor(self, step: int, steps: int) -> float:
        """Return the factor: from ``start_factor`` to 1, then to ``end_factor``, along two half cosines."""
        return self._cycle(step, steps, self.start_factor, 1.0, self.end_factor)

    def momentum(self, step: int, steps: int) -> float | None:
        """Return the momentum: from the highest to the lowest and back."""
        if self.range is None:
            return None
        low, high = self.range
        return self._cycle(step, steps, high, low, high)

    def _cycle(self, step: int, steps: int, start: float, top: float, end: float) -> float:
        peak = max(0.0, self.pct_start * steps - 1)
        last = max(1, steps - 1)
        if step <= peak and peak > 0:
            return cosine_between(start, top, step / peak)
        return cosine_between(top, end, (step - peak) / max(1.0, last - peak))


class Noam(Schedule):
    """Linear warm-up, then decay with the inverse square root of the step.

    The factor is the learning rate of the paper, so the optimizer's learning rate should be near 1.

    Args:
        width: Width of the model (``d_model``).
        warmup: Steps of warm-up; a value between 0 and 1 is a fraction of all steps.

    Source: Vaswani et al. 2017, "Attention is all you need", equation 3.
    """

    def __init__(self, width: int, warmup: float = 4000) -> None:
        super().__init__(warmup)
        self.width = width

    def factor(self, step: int, steps: int) -> float:
        """Return ``width^-0.5 * min(s^-0.5, s * warmup^-1.5)`` with s counted from 1."""
        number = step + 1
        warmup = max(1, to_steps(self.warmup, steps))
        return self.width**-0.5 * min(number**-0.5, number * warmup**-1.5)


class Plateau(Schedule):
    """Reduction of the rate when the monitored metric stops improving.

    Args:
        factor: Factor of each reduction, between 0 and 1.
        patience: Evaluations in a row without improvement that are tolerated.
        threshold: Smallest improvement that counts, as a fraction of the best metric so far.
        warmup: See `Schedule`.

    Source: torch.optim.lr_scheduler.ReduceLROnPlateau with a relative threshold.
    Differs: the threshold is relative to the metric's absolute value, so that negative metrics work too.
    """

    def __init__(self, factor: float = 0.1, patience: int = 10, threshold: float = 1e-4, warmup: float = 0) -> None:
        super().__init__(warmup)
        self.reduction, self.patience, self.threshold = factor, patience, threshold
        self.scale, self.waited = 1.0, 0
        self.best: float | None = None

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of the warm-up times all reductions so far."""
        return super().factor(step, steps) * self.scale

    def observe(self, metric: float, better: Literal["min", "max"]) -> None:
        """Reduce the rate after more than ``patience`` evaluations in a row without improvement."""
        if self._improves(metric, better):
            self.best, self.waited = metric, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.scale, self.waited = self.scale * self.reduction, 0

    def _improves(self, metric: float, better: Literal["min", "max"]) -> bool:
        if self.best is None:
            return not isnan(metric)
        margin = self.threshold * abs(self.best)
        return metric < self.best - margin if better == "min" else metric > self.best + margin

    def state_dict(self) -> dict[str, Any]:
        """Return the product of all reductions, the best metric and the number of evaluations without improvement."""
        return {"scale": self.scale, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.scale, self.best, self.waited = state["scale"], state["best"], state["waited"]


def to_steps(duration: float, steps: int) -> int:
    """Return a duration in steps; a value between 0 and 1 is a fraction of all steps."""
    return round(duration * steps) if 0 < duration < 1 else int(duration)


def cosine_between(start: float, end: float, progress: float) -> float:
    """Interpolate from `start` to `end` along half a cosine, with `progress` from 0 to 1."""
    return end + (start - end) * (1 + cos(pi * min(1.0, progress))) / 2
