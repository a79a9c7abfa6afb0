"""Families of one-dimensional curves whose tasks form two, three or five modes (Vuorio et al. 2019, "Multimodal MAML").

Every family is linear in one of its parameters, `curve = offset + linear * slope`, and all parameters are independent
with known quantile functions. The generator draws through the quantile functions; `mcb.limits` integrates over them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcb.randomness import fold_key, normals, uniforms
from mcb.types import Task

X_LOW, X_HIGH = -5.0, 5.0

Basis = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Uniform:
    """A uniform on [low, high]; `signed` gives it either sign with probability one half."""

    low: float
    high: float
    signed: bool = False

    def quantile(self, level: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The value at `level` in (0, 1), increasing; the gap of a signed uniform lies at one half."""
        if not self.signed:
            return self.low + (self.high - self.low) * level
        centred = 2 * level - 1
        return centred.sign() * (self.low + (self.high - self.low) * centred.abs())


@dataclass(frozen=True)
class Family:
    """Curves `offset + linear * slope`, where `basis(x, *others)` gives offset and slope by broadcasting."""

    linear: Uniform
    others: tuple[Uniform, ...]
    basis: Basis

    def curve(self, levels: Float[Tensor, "T L"], x: Float[Tensor, "T N"]) -> Float[Tensor, "T N"]:
        """Noise-free curves at `x`; `levels` in (0, 1) are quantiles of the linear parameter, then of the others."""
        others = [prior.quantile(levels[:, i + 1 : i + 2]) for i, prior in enumerate(self.others)]
        offset, slope = self.basis(x, *others)
        return offset + self.linear.quantile(levels[:, :1]) * slope


def _sinusoid(x: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
    slope = torch.sin(x - phase)
    return torch.zeros_like(slope), slope


def _linear(x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    return _plus_constant(gradient * x)


def _quadratic(x: Tensor, curvature: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    return _plus_constant(curvature * (x - centre).square())


def _tanh(x: Tensor, scale: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    return _plus_constant(scale * torch.tanh(x - centre))


def _absolute(x: Tensor, scale: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    return _plus_constant(scale * (x - centre).abs())


def _plus_constant(offset: Tensor) -> tuple[Tensor, Tensor]:
    return offset, torch.ones_like(offset)


_WIDE = Uniform(-3.0, 3.0)

FAMILIES: dict[str, Family] = {
    "sinusoid": Family(Uniform(0.1, 5.0), (Uniform(0.0, torch.pi),), _sinusoid),
    "linear": Family(_WIDE, (_WIDE,), _linear),
    "quadratic": Family(_WIDE, (Uniform(0.02, 0.15, signed=True), _WIDE), _quadratic),
    "tanh": Family(_WIDE, (_WIDE, _WIDE), _tanh),
    "absolute": Family(_WIDE, (_WIDE, _WIDE), _absolute),
}
_NUM_LEVELS = 3


@dataclass(frozen=True)
class RegressionFamilies:
    """Tasks of the named families in turn: task `i` is of family `i % F`, so a meta-batch divisible by F is balanced.

    x ~ U[-5, 5]; y = curve(x) + noise_scale * N(0, 1) on support and query.

    Raises:
        ValueError: families are none, unknown or repeated, a set has no point, or the noise scale is negative.
    """

    families: tuple[str, ...]
    num_support: int = 5
    num_query: int = 5
    noise_scale: float = 0.3

    def __post_init__(self) -> None:
        unknown = [name for name in self.families if name not in FAMILIES]
        if unknown or not self.families or len(set(self.families)) < len(self.families):
            raise ValueError(f"families={self.families} must name at least one of {tuple(FAMILIES)}, each once.")
        for name, value in (("num_support", self.num_support), ("num_query", self.num_query)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if not 0 <= self.noise_scale < float("inf"):
            raise ValueError(f"noise_scale={self.noise_scale} must be finite and not negative.")

    @classmethod
    def two_modes(cls, num_support: int = 5, num_query: int = 5) -> "RegressionFamilies":
        """Sinusoid and linear."""
        return cls(tuple(FAMILIES)[:2], num_support, num_query)

    @classmethod
    def three_modes(cls, num_support: int = 5, num_query: int = 5) -> "RegressionFamilies":
        """Sinusoid, linear and quadratic."""
        return cls(tuple(FAMILIES)[:3], num_support, num_query)

    @classmethod
    def five_modes(cls, num_support: int = 5, num_query: int = 5) -> "RegressionFamilies":
        """Sinusoid, linear, quadratic, tanh and absolute."""
        return cls(tuple(FAMILIES), num_support, num_query)

    @property
    def mode_names(self) -> tuple[str, ...]:
        """The families, in the order of `Task.mode`."""
        return self.families

    @property
    def x_size(self) -> int:
        """One input."""
        return 1

    @property
    def y_size(self) -> int:
        """One target."""
        return 1

    def sample(self, seed: int, indices: Int[Tensor, "T"]) -> Task:
        """Tasks `indices` of the stream `seed`, float32, every point present."""
        num_points = self.num_support + self.num_query
        x = (X_LOW + (X_HIGH - X_LOW) * uniforms(fold_key(seed, "x"), indices, num_points)).float()
        noise = normals(fold_key(seed, "y"), indices, num_points)
        y = (self.truth(seed, indices, x.double()) + self.noise_scale * noise).float()
        present = torch.ones(x.shape, dtype=torch.bool)
        split = self.num_support
        return Task(
            support_x=x[:, :split, None],
            support_y=y[:, :split, None],
            support_mask=present[:, :split],
            query_x=x[:, split:, None],
            query_y=y[:, split:, None],
            query_mask=present[:, split:],
            mode=indices % len(self.families),
        )

    def truth(self, seed: int, indices: Int[Tensor, "T"], x: Float[Tensor, "T G"]) -> Float[Tensor, "T G"]:
        """The noise-free curves of tasks `indices` at given points (a plotting grid, say), in `x`'s dtype."""
        levels = uniforms(fold_key(seed, "parameters"), indices, _NUM_LEVELS).to(x.dtype)
        mode = indices % len(self.families)
        y = torch.empty_like(x)
        for i, name in enumerate(self.families):
            rows = mode == i
            y[rows] = FAMILIES[name].curve(levels[rows], x[rows])
        return y
