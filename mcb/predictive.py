"""Predictive distributions at query points: finite mixtures, one component for every mode and particle.

`N` counts the components of a mixture. Any leading batch axes are allowed (usually none or `T`), and everything is
differentiable in the mixture's tensors except `quantile` and `interval`.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcb.quantiles import lower_quantile

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_ENTRIES_AT_ONCE = 20_000  # of a batch's means while quantiles are sought: what stays in a processor's cache


class GaussianMixture(NamedTuple):
    r"""$p(y_q) = \sum_n w_n \prod_o N(y_{qo};\ \mu_{nqo},\ \sigma_{nqo}^2)$ at every query point $q$.

    `log_weights` is normalised over `N`; a weight may be zero (`-inf`). `log_scale` broadcasts against `mean`.
    """

    log_weights: Float[Tensor, "*T N"]
    mean: Float[Tensor, "*T N Q O"]
    log_scale: Float[Tensor, "*#T #N #Q #O"]

    def log_density(self, y: Float[Tensor, "*T Q O"]) -> Float[Tensor, "*T Q"]:
        """Marginal log density of each query point, nats: outputs are summed inside a component."""
        z = (y.unsqueeze(-3) - self.mean) * torch.exp(-self.log_scale)
        components = (-0.5 * z.square() - self.log_scale - _LOG_SQRT_2PI).sum(-1)
        return torch.logsumexp(self.log_weights.unsqueeze(-1) + components, dim=-2)

    def expectation(self) -> Float[Tensor, "*T Q O"]:
        """Mean of the mixture."""
        return (self._weights() * self.mean).sum(-3)

    def variance(self) -> Float[Tensor, "*T Q O"]:
        """Variance of the mixture, by the law of total variance: within components plus between them."""
        between = (self.mean - self.expectation().unsqueeze(-3)).square()
        return (self._weights() * (torch.exp(2 * self.log_scale) + between)).sum(-3)

    def cdf(self, y: Float[Tensor, "*T Q O"]) -> Float[Tensor, "*T Q O"]:
        """Probability that each output lies below `y`, each output on its own."""
        z = (y.unsqueeze(-3) - self.mean) * torch.exp(-self.log_scale)
        return (self._weights() * torch.special.ndtr(z)).sum(-3)

    def quantile(self, level: float) -> Float[Tensor, "*T Q O"]:
        """Inverse of `cdf`, to the rounding of the mixture's dtype. Not differentiated.

        Raises:
            ValueError: `level` is not inside (0, 1).
        """
        _check_level(level)
        sign = 1.0 if level <= 0.5 else -1.0
        return sign * self._lower_ends((sign,), min(level, 1 - level))[0]

    def interval(self, level: float) -> tuple[Float[Tensor, "*T Q O"], Float[Tensor, "*T Q O"]]:
        """Lower and upper end of the central interval that holds probability `level`, each output on its own.

        Raises:
            ValueError: `level` is not inside (0, 1).
        """
        _check_level(level)
        low, high = self._lower_ends((1.0, -1.0), 0.5 - 0.5 * level)
        return low, -high

    def crps(self, y: Float[Tensor, "*T Q O"]) -> Float[Tensor, "*T Q"]:
        r"""Continuous ranked probability score $E|Y - y| - \frac12 E|Y - Y'|$, in units of `y`, mean over outputs.

        Closed form for Gaussian mixtures (Grimit, Gneiting, Berrocal & Johnson 2006). Pairs of components are summed
        row by row, so memory is that of `mean` and not `N` times it.
        """
        weights, mean = self._weights().expand_as(self.mean), self.mean
        scale = torch.exp(self.log_scale).expand_as(mean)
        to_target = (weights * _mean_absolute(mean - y.unsqueeze(-3), scale)).sum(-3)
        # Half of E|Y - Y'|: every component with itself (there it is 2 s / sqrt(pi)), then every unordered pair once.
        spread = (weights.square() * scale).sum(-3) / math.sqrt(math.pi)
        for n in range(mean.shape[-3] - 1):
            rest = slice(n + 1, None)
            difference = mean[..., rest, :, :] - mean[..., n : n + 1, :, :]
            pair_scale = torch.hypot(scale[..., rest, :, :], scale[..., n : n + 1, :, :])
            pairs = weights[..., rest, :, :] * _mean_absolute(difference, pair_scale)
            spread = spread + weights[..., n, :, :] * pairs.sum(-3)
        return (to_target - spread).mean(-1)

    @torch.no_grad()
    def _lower_ends(self, signs: tuple[float, ...], level: float) -> Float[Tensor, "E *T Q O"]:
        """Lower quantiles of the mixture times each sign, some tasks at once."""
        batch, (num_components, *point) = self.mean.shape[:-3], self.mean.shape[-3:]
        found = self.mean.new_empty(math.prod(batch), len(signs), *point)
        weights = torch.exp(self.log_weights).reshape(-1, num_components)
        leaves = (self.mean, self.log_scale.expand_as(self.mean))
        mean, log_scale = (leaf.reshape(len(found), num_components, math.prod(point)) for leaf in leaves)
        at_once = max(1, _ENTRIES_AT_ONCE // max(1, mean[:1].numel()))
        for first in range(0, len(found), at_once):
            rows = slice(first, first + at_once)
            signed = torch.cat([sign * mean[rows] for sign in signs], -1)
            scale = torch.exp(log_scale[rows]).repeat(1, 1, len(signs))
            found[rows] = lower_quantile(weights[rows], signed, scale, level).view_as(found[rows])
        return found.movedim(1, 0).unflatten(1, batch) if batch else found[0]

    def _weights(self) -> Float[Tensor, "*T N 1 1"]:
        return torch.exp(self.log_weights)[..., None, None]


class CategoricalMixture(NamedTuple):
    """`p(y_q = o) = sum_n w_n softmax(logits_nq)_o` at every query point `q`; `log_weights` is normalised over `N`."""

    log_weights: Float[Tensor, "*T N"]
    logits: Float[Tensor, "*T N Q O"]

    def log_density(self, y: Int[Tensor, "*T Q"]) -> Float[Tensor, "*T Q"]:
        """Log probability of each query point's class, nats."""
        return self._log_probabilities().gather(-1, y.unsqueeze(-1)).squeeze(-1)

    def probabilities(self) -> Float[Tensor, "*T Q O"]:
        """Class probabilities of the mixture."""
        return torch.exp(self._log_probabilities())

    def _log_probabilities(self) -> Float[Tensor, "*T Q O"]:
        components = torch.log_softmax(self.logits, dim=-1)
        return torch.logsumexp(self.log_weights[..., None, None] + components, dim=-3)


def _mean_absolute(mean: Float[Tensor, "*n"], scale: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """`E|Z|` of a Gaussian, the mean of a folded normal (Leone, Nelson & Nottingham 1961)."""
    z = mean / scale
    return scale * math.sqrt(2 / math.pi) * torch.exp(-0.5 * z.square()) + mean * torch.erf(z * math.sqrt(0.5))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie inside (0, 1): 0.9 stands for 90 %")
