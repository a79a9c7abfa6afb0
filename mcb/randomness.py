"""Randomness by name, not by order: every draw is a pure function of a seed and a path.

`fold_in` gives a generator for one named stream. `uniforms` and `normals` are counter based: they give row `i` of a
stream for any set of indices at once, so a batch of tasks is drawn without a loop and task `i` never depends on which
batch it is in. The mixing function is the finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable
pseudorandom number generators").
"""

import hashlib
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2**64 divided by the golden ratio, as a signed 64-bit integer
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def fold_key(seed: int, *path: int | str) -> int:
    """A 63-bit key for the stream named by `path` under `seed`; distinct paths give unrelated keys.

    >>> fold_key(0, "test") == fold_key(0, "test"), fold_key(0, "test") == fold_key(0, "train")
    (True, False)
    """
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def fold_in(seed: int, *path: int | str) -> torch.Generator:
    """A CPU generator for the stream named by `path` under `seed`."""
    return torch.Generator().manual_seed(fold_key(seed, *path))


def uniforms(key: int, indices: Int[Tensor, "T"], num: int) -> Float[Tensor, "T {num}"]:
    """Row `i` holds `num` float64 draws from the open unit interval that depend on `key` and `indices[i]` alone."""
    bits = _bits(key, indices, num)
    return (_shift_right(bits, 12).double() + 0.5) * 2.0**-52


def normals(key: int, indices: Int[Tensor, "T"], num: int) -> Float[Tensor, "T {num}"]:
    """Row `i` holds `num` float32 standard normal draws of `key` and `indices[i]` alone (Box & Muller 1958).

    Each 64-bit word gives the two uniforms of one pair, so a pair costs one hash; the tails end at 6.66 standard
    deviations, where 32 bits do.
    """
    bits = _bits(key, indices, (num + 1) // 2)
    radius = torch.sqrt(-2 * torch.log((_shift_right(bits, 32).float() + 0.5) * 2.0**-32))
    angle = (bits & 0xFFFFFFFF).float() * (2 * math.pi * 2.0**-32)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :num]


def _bits(key: int, indices: Int[Tensor, "T"], num: int) -> Int[Tensor, "T {num}"]:
    """Uniform 64-bit words: the index is mixed into the key, then each counter into that."""
    rows = _mix(indices.long() * _GOLDEN + key)
    counters = torch.arange(1, num + 1, device=indices.device) * _GOLDEN
    return _mix(rows[:, None] + counters)


def _mix(z: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The SplitMix64 finaliser on 64-bit words held in (wrapping) signed integers."""
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def _shift_right(z: Int[Tensor, "*n"], num_bits: int) -> Int[Tensor, "*n"]:
    """Logical shift: torch's `>>` copies the sign."""
    return (z >> num_bits) & ((1 << (64 - num_bits)) - 1)
