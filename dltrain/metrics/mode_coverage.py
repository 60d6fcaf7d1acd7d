"""Coverage of the modes of a 2-D distribution by generated points."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

MAX_DISTANCE = 3.0  # in standard deviations of a mode, from its center


def modes_found(real: Tensor, labels: Tensor, fake: Tensor, classes: int) -> dict[str, float]:
    """Return how many modes are covered, and how well.

    Each class of real points is a mode. The center of a mode is the mean of its real points; the standard deviation of
    a mode is the square root of their mean variance along the two axes. Distances from a center are in standard
    deviations of its mode: a generated point belongs to the nearest mode if the distance is at most three.

    - ``modes``: number of modes with generated points.
    - ``high_quality``: fraction of the generated points that belong to a mode.
    - ``coverage``: overlap of the real and generated distributions over the modes, in [0, 1]: the sum over the modes of
      ``min(fraction of the real points, fraction of the generated points)``.

    Args:
        real, fake: Points, (N, 2) and (M, 2).
        labels: Classes of the real points, int64 (N,).

    Source: modes and high_quality: Srivastava et al. 2017, "VEEGAN", section 4.1; coverage is one minus the total
    variation distance.
    """
    real, fake = real.cpu().double(), fake.cpu().double()
    members = one_hot(labels.cpu(), classes).double()
    counts = members.sum(0)
    means = members.T @ real / counts[:, None]
    variances = members.T @ (real - means[labels.cpu()]).square() / (counts - 1)[:, None]
    distances = torch.cdist(fake, means) / variances.mean(1).sqrt()
    nearest, mode = distances.nan_to_num(torch.inf).min(1)  # NaN for a mode with fewer than two real points
    good = nearest <= MAX_DISTANCE
    hits = torch.bincount(mode[good], minlength=classes)
    overlap = torch.minimum(hits / len(fake), counts / len(real))
    return {
        "modes": float((hits > 0).sum()),
        "high_quality": float(good.double().mean()),
        "coverage": float(overlap.sum()),
    }
