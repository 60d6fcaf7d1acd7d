"""Scores of generated examples, computed from features or from the outputs of a classifier.

Scores are computed on the CPU in double precision, so that they do not depend on the device.
"""

import math

import torch
from torch import Tensor

BATCH_SIZE = 512  # rows of a distance matrix to compute at a time


def frechet(real: Tensor, fake: Tensor) -> float:
    r"""Return the squared Fréchet distance between two normal distributions, fitted to real and generated features.

    Their means are ``m`` and ``m'``, and their covariances ``C`` and ``C'``:

    .. math:: |m - m'|^2 + \operatorname{tr}(C + C' - 2 (C C')^{1/2})

    With ``C = R^T R`` for a triangular R, the trace of ``(C C')^{1/2}`` is the sum of the singular values of
    ``R R'^T``, because their squares are the eigenvalues of ``C C'``. This is exact even with fewer examples than
    features. The distance is NaN if a feature is not finite.

    Source: Heusel et al. 2017, equation 6, arXiv:1706.08500; formula from Dowson and Landau 1982.
    """
    real, fake = _to_float64(real), _to_float64(fake)
    if not bool(real.isfinite().all() and fake.isfinite().all()):
        return math.nan
    distance = (real.mean(0) - fake.mean(0)).square().sum()
    root, other = _covariance_root(real), _covariance_root(fake)
    trace = torch.linalg.svdvals(root @ other.T).sum()
    return max(0.0, float(distance + root.square().sum() + other.square().sum() - 2 * trace))


def _covariance_root(features: Tensor) -> Tensor:
    """Return R such that R^T R is the covariance of the features; 0 for a single example."""
    centered = (features - features.mean(0)) / math.sqrt(max(1, len(features) - 1))
    return torch.linalg.qr(centered, mode="r").R


def classifier_score(logits: Tensor) -> float:
    r"""Return the inception score, which is high if predictions are certain and cover the classes evenly.

    .. math:: \exp \mathbb{E}_x \operatorname{KL}(p(y|x) \,\|\, p(y))

    The score lies between 1 and the number of classes. ``logits`` have one row per example, one column per class.

    Source: Salimans et al. 2016, section 4, arXiv:1606.03498, with an Inception network for ImageNet.
    Differs: computed over all examples together, not as the mean over ten parts.
    """
    conditional = _to_float64(logits).log_softmax(1)
    marginal = conditional.logsumexp(0) - math.log(len(conditional))
    return float((conditional.exp() * (conditional - marginal)).sum(1).mean().exp())


def precision_recall(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """Return precision and recall: the fraction of generated examples near real examples, and vice versa.

    An example is near a set if its distance to at least one member is at most the distance from that member to the
    member's k-th nearest neighbor in the set.

    Args:
        real, fake: Features, one row per example; scores depend on the sizes of the sets.
        k: Rank of the neighbor; reduced for sets of at most k examples.

    Source: Kynkäänniemi et al. 2019, equations 1 and 2, arXiv:1904.06991; there k = 3.
    """
    real, fake = _to_float64(real), _to_float64(fake)
    # `cdist` computes distances from dot products; centering reduces the rounding errors.
    real, fake = real - real.mean(0), fake - real.mean(0)
    return _share_near(fake, real, k), _share_near(real, fake, k)


def _share_near(queries: Tensor, members: Tensor, k: int) -> float:
    nearest = min(k, len(members) - 1) + 1  # the nearest member to each member is itself
    radii = torch.cat(
        [torch.cdist(rows, members).topk(nearest, largest=False).values[:, -1] for rows in members.split(BATCH_SIZE)]
    )
    inside = [(torch.cdist(rows, members) <= radii).any(1) for rows in queries.split(BATCH_SIZE)]
    return float(torch.cat(inside).double().mean())


def _to_float64(values: Tensor) -> Tensor:
    return values.detach().cpu().double().flatten(1)
