"""Random numbers computed from integer keys instead of drawn from a generator."""

import math
from typing import TypeVar

import torch
from torch import Tensor

Integers = TypeVar("Integers", int, Tensor)

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio as a signed integer


def key(*parts: int) -> int:
    """Hash integers into one non-negative 63-bit key, the same on every machine."""
    value = torch.zeros((), dtype=torch.int64)
    for part in parts:
        value = mix(value + part)
    return int(value) & (2**63 - 1)


def mix(value: Integers) -> Integers:
    """Hash int64 values with the finalizer of SplitMix64; different values have different hashes.

    The hash of a Python integer may have more than 64 bits; its lowest 64 bits equal the hash of the value as a tensor.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    value = value + _GOLDEN
    value = (value ^ _shift_right(value, 30)) * -4658895280553007687
    value = (value ^ _shift_right(value, 27)) * -7723592293110705685
    return value ^ _shift_right(value, 31)


def uniform(keys: Tensor, count: int) -> Tensor:
    """Return ``count`` uniform numbers in [0, 1) per key: int64 (B,) -> float32 (B, count)."""
    lanes = torch.arange(1, count + 1, device=keys.device)
    bits = mix(keys[:, None] + lanes * _GOLDEN)
    return _shift_right(bits, 40).to(torch.float32) * 2.0**-24


def draw(key: int, count: int) -> list[float]:
    """Return ``count`` uniform numbers in [0, 1) for one key."""
    return [_shift_right(mix(key + lane * _GOLDEN), 40) * 2.0**-24 for lane in range(1, count + 1)]


def normal(keys: Tensor, count: int) -> Tensor:
    """Return ``count`` standard normal numbers per key: int64 (B,) -> float32 (B, count).

    Source: Box, Muller 1958, "A note on the generation of random normal deviates".
    """
    radius, turn = uniform(keys, 2 * -(-count // 2)).chunk(2, dim=1)
    radius, turn = (-2 * (1 - radius).log()).sqrt(), 2 * math.pi * turn
    return torch.cat([radius * turn.cos(), radius * turn.sin()], 1)[:, :count]


def _shift_right(value: Integers, bits: int) -> Integers:
    """Shift right logically; ``>>`` alone shifts arithmetically, which keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
