r"""Quantiles of mixtures of normals, by Halley's steps inside a bracket.

The root of $\log F(y) = \log \alpha$ is sought: the logarithm is smooth far into the lower tail. `M` counts mixtures of
one set of weights: query points, outputs, ends of an interval. `C` counts those of all tasks.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_ROOT_PI = math.sqrt(math.pi)
_MOST_STEPS = 1024  # far more than are taken unless the components lie many orders of magnitude apart


@torch.no_grad()
def lower_quantile(
    weights: Float[Tensor, "T N"], mean: Float[Tensor, "T N M"], scale: Float[Tensor, "T N M"], level: float
) -> Float[Tensor, "T M"]:
    r"""The value that each mixture lies below with probability `level`, at most 1/2, to the rounding of its dtype.

    Upper quantiles of $Y$ are the lower ones of $-Y$, where $F$ does not cancel. Components whose weights are together
    less than a rounding error of `level` are left out.
    """
    least = torch.finfo(mean.dtype).eps * level / weights.shape[1]
    num_kept = max(1, int((weights > least).sum(1).max()))
    if num_kept < weights.shape[1]:
        weights, index = weights.topk(num_kept, dim=1)
        index = index[..., None].expand(-1, -1, mean.shape[2])
        mean, scale = mean.gather(1, index), scale.gather(1, index)
    low, high = _bracket(weights, mean, scale, level)
    columns = (weights[..., None].expand_as(mean), mean, math.sqrt(0.5) / scale)
    mixtures = _Mixtures(*(leaf.movedim(1, 0).flatten(1) for leaf in columns))
    return _solve(mixtures, low.flatten(), high.flatten(), level).view_as(low)


class _Mixtures(NamedTuple):
    r"""Weights, means and $1 / (\sqrt 2 \sigma)$, a column for each mixture."""

    weights: Float[Tensor, "N C"]
    mean: Float[Tensor, "N C"]
    precision: Float[Tensor, "N C"]

    def below(self, y: Float[Tensor, "C"]) -> tuple[Float[Tensor, "C"], Float[Tensor, "C"], Float[Tensor, "C"]]:
        r"""$F$, $F'$ and $F''$ at a value for each mixture."""
        u = (y - self.mean) * self.precision
        density = u.square().neg_().exp_().mul_(self.weights).mul_(self.precision)
        slope = (density * u).mul_(self.precision)
        probability = torch.erfc(u.neg_()).mul_(self.weights)
        return 0.5 * probability.sum(0), density.sum(0) / _ROOT_PI, -2 / _ROOT_PI * slope.sum(0)

    def select(self, chosen: Bool[Tensor, "C"]) -> "_Mixtures":
        """Some of the mixtures."""
        return _Mixtures(*(leaf[:, chosen] for leaf in self))


def _bracket(
    weights: Float[Tensor, "T N"], mean: Float[Tensor, "T N M"], scale: Float[Tensor, "T N M"], level: float
) -> tuple[Float[Tensor, "T M"], Float[Tensor, "T M"]]:
    r"""Values below and above the quantile, between which $F$ is at least $\alpha / N$.

    The quantile lies between the least and the largest of the components' own. From $F(y) \ge w_n \Phi_n(y)$ it lies
    below each component's quantile at $\alpha / w_n$. One of the N terms of $F$ is at least the N-th part of $\alpha$,
    so it lies above the least of the components' quantiles at $\alpha / (N w_n)$.
    """
    own = torch.full_like(weights, level).masked_fill(weights <= 0, math.inf)
    share = level / weights

    def quantiles(levels: Float[Tensor, "T N"], absent: float) -> Float[Tensor, "T N M"]:
        """Those of the components, and `absent` at levels that are none."""
        z = torch.special.ndtri(levels)[..., None]
        return torch.where(levels[..., None] < 1, mean + scale * z, absent)

    low = torch.maximum(quantiles(own, math.inf).amin(1), quantiles(share / weights.shape[1], math.inf).amin(1))
    high = torch.minimum(quantiles(own, -math.inf).amax(1), quantiles(share, math.inf).amin(1))
    return low, high


def _solve(mixtures: _Mixtures, low: Float[Tensor, "C"], high: Float[Tensor, "C"], level: float) -> Float[Tensor, "C"]:
    r"""The root of $\log F(y) = \log \alpha$ in a bracket; Halley's steps triple the digits that are right.

    Where such a step would leave the bracket, or the one before it did not halve the error, the bracket is halved.
    """
    epsilon = torch.finfo(low.dtype).eps
    y, before = low + 0.5 * (high - low), torch.full_like(low, math.inf)
    found, places = y.clone(), torch.arange(len(y), device=y.device)
    for _ in range(_MOST_STEPS):
        probability, density, slope = mixtures.below(y)
        error, first = torch.log(probability / level), density / probability
        second = slope / probability - first.square()
        low, high = torch.where(error < 0, y, low), torch.where(error < 0, high, y)
        following = y - 2 * error * first / (2 * first.square() - error * second)
        is_good = (following > low) & (following < high) & (error.abs() < 0.5 * before)
        following = torch.where(is_good, following, low + 0.5 * (high - low))
        before = torch.where(is_good, error.abs(), math.inf)
        rounding = epsilon * (8 - 2 * math.log(level) + 2 * first * y.abs())
        goes_on = (error.abs() > rounding) & (following != y)  # neither where something is not a number
        num_left = int(goes_on.sum())
        if 2 * num_left > len(y):
            y = torch.where(goes_on, following, y)
            continue
        found[places] = y
        if num_left == 0:
            break
        mixtures, places = mixtures.select(goes_on), places[goes_on]
        y, low, high, before = (leaf[goes_on] for leaf in (following, low, high, before))
    return found
