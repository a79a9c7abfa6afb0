r"""Closed forms for one parameter b with a uniform prior that enters a Gaussian likelihood linearly: y ~ N(b h, σ²).

The posterior is a Gaussian truncated to the prior's range; evidence and mean follow from the normal distribution
function, evaluated so that neither tail cancels (float64 expected).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_FLOOR = 1e-8  # precision that keeps b proper where every slope is 0; moves the log evidence by less than 1e-6
_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


class LinearLikelihood(NamedTuple):
    """A log likelihood `constant + information * b - precision * b**2 / 2` for each element."""

    precision: Float[Tensor, "*n"]
    information: Float[Tensor, "*n"]
    constant: Float[Tensor, "*n"]

    @classmethod
    def of_points(
        cls, residual: Float[Tensor, "*n S"], slope: Float[Tensor, "*n S"], noise_scale: float
    ) -> "LinearLikelihood":
        """Of observations `residual = b * slope + noise`, summed over the points."""
        residual, slope = residual / noise_scale, slope / noise_scale
        return cls(
            precision=slope.square().sum(-1),
            information=(slope * residual).sum(-1),
            constant=-0.5 * residual.square().sum(-1) - residual.shape[-1] * (math.log(noise_scale) + _LOG_ROOT_2PI),
        )

    def log_largest(self, low: float, high: float) -> Float[Tensor, "*n"]:
        """The largest log likelihood over [low, high], an upper bound of `log_evidence`."""
        b = (self.information / (self.precision + _FLOOR)).clamp(low, high)
        return self.constant + b * (self.information - 0.5 * self.precision * b)

    def log_evidence(self, low: float, high: float) -> Float[Tensor, "*n"]:
        """Log of the likelihood averaged over b uniform on [low, high]."""
        mean, scale = self._untruncated()
        log_mass = _log_interval((low - mean) / scale, (high - mean) / scale)
        log_integral = 0.5 * (mean / scale).square() + scale.log() + _LOG_ROOT_2PI + log_mass
        return self.constant + log_integral - math.log(high - low)

    def posterior_mean(self, low: float, high: float) -> Float[Tensor, "*n"]:
        """Mean of b given the points, for b uniform on [low, high]."""
        mean, scale = self._untruncated()
        left, right = (low - mean) / scale, (high - mean) / scale
        log_normaliser = _log_interval(left, right) + _LOG_ROOT_2PI
        shift = (-0.5 * left.square() - log_normaliser).exp() - (-0.5 * right.square() - log_normaliser).exp()
        return (mean + scale * shift).clamp(low, high)

    def _untruncated(self) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        precision = self.precision + _FLOOR
        return self.information / precision, precision.rsqrt()


def _log_interval(low: Float[Tensor, "*n"], high: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Log mass of the standard normal between `low < high`; an interval in the upper tail is mirrored first."""
    mirrored = low > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    log_high = torch.special.log_ndtr(high)
    return log_high + torch.log1p(-(torch.special.log_ndtr(low) - log_high).exp())
