"""Interpolation between noise vectors."""

import torch
from torch.nn import functional as F

from dltrain.tasks.sampling import slerp_path


def test_spherical_interpolation_follows_great_circles_in_equal_steps() -> None:
    start, end = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    path = slerp_path(start, end, 8).view(5, 8, 64)
    torch.testing.assert_close(path[:, 0], start)
    torch.testing.assert_close(path[:, -1], end)
    unit = slerp_path(F.normalize(start), F.normalize(end), 8).view(5, 8, 64)
    torch.testing.assert_close(unit.norm(dim=2), torch.ones(5, 8))
    steps = (unit[:, :-1] * unit[:, 1:]).sum(2).acos()
    torch.testing.assert_close(steps, steps[:, :1].expand(-1, 7), rtol=1e-3, atol=1e-4)
