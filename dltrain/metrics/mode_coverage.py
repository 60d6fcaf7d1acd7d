"""Which of several distributions in a plane a generative model has found."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

NEAR = 3.0  # deviations


def modes_found(real: Tensor, labels: Tensor, fake: Tensor, classes: int) -> dict[str, float]:
    """How many modes are covered, and how well.

    A mode is a class of the real points: their mean, and their deviation (the root of their variances' mean over both
    axes). A made-up point is good if it lies within three deviations of the nearest mode, and then belongs to it.

    Args:
        real: Real points, (N, 2).
        labels: Their classes, int64 (N,).
        fake: Made-up points, (M, 2).
        classes: How many classes there are.

    Returns:
        modes, the number of modes that a good point belongs to; high_quality, the share of good points; coverage, from
        0 to 1, how much of the real distribution over the modes is met by good points: the sum over all modes of the
        lesser of both shares.

    Source: modes and high_quality: Srivastava et al. 2017, "VEEGAN", section 4.1; coverage is one minus the distance in
    variation of both distributions over modes.
    """
    real, fake = real.cpu().double(), fake.cpu().double()
    members = one_hot(labels.cpu(), classes).double()
    counts = members.sum(0)
    means = members.T @ real / counts[:, None]
    variances = members.T @ (real - means[labels.cpu()]).square() / (counts - 1)[:, None]
    apart = torch.cdist(fake, means) / variances.mean(1).sqrt()
    nearest, mode = apart.nan_to_num(torch.inf).min(1)  # a class of fewer than two points has no deviation
    good = nearest <= NEAR
    hits = torch.bincount(mode[good], minlength=classes)
    met = torch.minimum(hits / len(fake), counts / len(real))
    return {
        "modes": float((hits > 0).sum()),
        "high_quality": float(good.double().mean()),
        "coverage": float(met.sum()),
    }
