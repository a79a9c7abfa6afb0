"""Predictive distributions at query points: finite mixtures, one component for every mode and particle.

`N` counts the components of a mixture. Any leading batch axes are allowed (usually none or `T`), and everything is
differentiable in the mixture's tensors except `quantile` and `interval`.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_MOST_BISECTIONS = 256  # far more than are taken unless the components lie many orders of magnitude apart


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

    @torch.no_grad()
    def quantile(self, level: float) -> Float[Tensor, "*T Q O"]:
        """Inverse of `cdf` by bisection; the components' own quantiles bracket the mixture's. Not differentiated.

        Raises:
            ValueError: `level` is not inside (0, 1).
        """
        _check_level(level)
        z = torch.special.ndtri(self.mean.new_tensor(level))
        components = self.mean + torch.exp(self.log_scale) * z
        absent = self._weights() == 0
        low = components.masked_fill(absent, math.inf).amin(-3)
        high = components.masked_fill(absent, -math.inf).amax(-3)
        weights, precision = self._weights(), torch.exp(-self.log_scale)
        for _ in range(_MOST_BISECTIONS):
            middle = low + 0.5 * (high - low)
            if ((middle == low) | (middle == high)).all():
                break
            below = (weights * torch.special.ndtr((middle.unsqueeze(-3) - self.mean) * precision)).sum(-3) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return low + 0.5 * (high - low)

    def interval(self, level: float) -> tuple[Float[Tensor, "*T Q O"], Float[Tensor, "*T Q O"]]:
        """Lower and upper end of the central interval that holds probability `level`, each output on its own.

        Raises:
            ValueError: `level` is not inside (0, 1).
        """
        _check_level(level)
        return self.quantile(0.5 - 0.5 * level), self.quantile(0.5 + 0.5 * level)

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
