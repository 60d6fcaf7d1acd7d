"""How much one set of examples is like another, by their features: scores of generative models.

All of them are sums over whole sets, computed on the CPU in double precision: a score is the same wherever it runs.
"""

import math

import torch
from torch import Tensor

ROWS = 512  # distances are computed for so many examples at a time


def frechet(real: Tensor, fake: Tensor) -> float:
    r"""Fréchet distance between the normal distributions with the means and covariances of two sets.

    .. math:: |m - m'|^2 + \operatorname{tr}(C + C' - 2 (C C')^{1/2})

    The product of covariances is never formed. With ``C = R^T R``, R triangular, the eigenvalues of ``C C'`` are the
    squared singular values of ``R R'^T``, which are as exact where there are fewer examples than features.

    Args:
        real: Features, one row per example.
        fake: Those of the other set.

    Returns:
        0 for equal means and covariances; not a number where a feature is none.

    Source: Heusel et al. 2017, equation 6, arXiv:1706.08500; the distance is that of Dowson and Landau 1982.
    """
    real, fake = _precise(real), _precise(fake)
    if not bool(real.isfinite().all() and fake.isfinite().all()):
        return math.nan
    apart = (real.mean(0) - fake.mean(0)).square().sum()
    one, other = _root(real), _root(fake)
    shared = torch.linalg.svdvals(one @ other.T).sum()
    return max(0.0, float(apart + one.square().sum() + other.square().sum() - 2 * shared))


def _root(features: Tensor) -> Tensor:
    """R with the covariance R^T R; a single example has none."""
    centred = (features - features.mean(0)) / math.sqrt(max(1, len(features) - 1))
    return torch.linalg.qr(centred, mode="r").R


def classifier_score(logits: Tensor) -> float:
    r"""How sure a classifier is about each example, and how evenly it spreads all of them over the classes.

    .. math:: \exp \mathbb{E}_x \operatorname{KL}(p(y|x) \,\|\, p(y))

    Args:
        logits: One row per example, one column per class.

    Returns:
        From 1 to the number of classes.

    Source: Salimans et al. 2016, section 4, arXiv:1606.03498, there with an Inception network of ImageNet.
    Differs: Over all examples at once, not the mean over ten parts.
    """
    each = _precise(logits).log_softmax(1)
    every = each.logsumexp(0) - math.log(len(each))
    return float((each.exp() * (each - every)).sum(1).mean().exp())


def precision_recall(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """The share of made-up examples that lie among the real ones, and of real ones that lie among the made-up.

    An example lies among a set if, for a member of the set, it is no farther away than that member's k-th nearest
    neighbour within the set.

    Args:
        real: Features, one row per example.
        fake: Those of the other set; scores of sets of other sizes cannot be compared.
        k: Which neighbour; fewer where a set is smaller than that.

    Returns:
        Precision and recall, from 0 to 1.

    Source: Kynkäänniemi et al. 2019, equations 1 and 2, arXiv:1904.06991; they take k = 3.
    """
    real, fake = _precise(real), _precise(fake)
    # Distances come from products, whose rounding grows with how far from zero everything is.
    real, fake = real - real.mean(0), fake - real.mean(0)
    return _covered(fake, real, k), _covered(real, fake, k)


def _covered(asked: Tensor, members: Tensor, k: int) -> float:
    """The share of ``asked`` that lies among ``members``."""
    nearest = min(k, len(members) - 1) + 1  # the nearest to every member is itself
    radii = torch.cat(
        [torch.cdist(rows, members).topk(nearest, largest=False).values[:, -1] for rows in members.split(ROWS)]
    )
    inside = [(torch.cdist(rows, members) <= radii).any(1) for rows in asked.split(ROWS)]
    return float(torch.cat(inside).double().mean())


def _precise(values: Tensor) -> Tensor:
    """On the CPU, as some devices have no double precision; one row per example."""
    return values.detach().cpu().double().flatten(1)
