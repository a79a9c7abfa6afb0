"""A gate made of clusters: how likely each slot is, given where in the space of representations a task lies."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_PSEUDO_COUNT = 10.0  # tasks' worth of the pooled variance in that of each cluster
_SMALLEST_SCALE = 1e-3  # of a cluster, in standard deviations of all tasks


class ClusterGate(NamedTuple):
    """`K` slots, of which those in use have a weight and a diagonal Gaussian."""

    in_use: Float[Tensor, "K"]
    log_weight: Float[Tensor, "K"]
    centre: Float[Tensor, "K R"]
    log_scale: Float[Tensor, "K R"]

    def scores(self, representation: Float[Tensor, "*n R"], trust: float) -> Float[Tensor, "*n K"]:
        r"""$\log w_k + \frac{\tau}{R} \sum_r \log \mathcal N(e_r; m_{kr}, s_{kr}^2)$ but for a constant; -inf: unused.

        `trust` $\tau$ is the weight of the `R` numbers together, as many observations.
        """
        deviation = (representation[..., None, :] - self.centre) * (-self.log_scale).exp()
        log_density = -(0.5 * deviation.square() + self.log_scale).mean(-1)
        return torch.where(self.in_use > 0, self.log_weight + trust * log_density, -torch.inf)

    def nearest(self, representation: Float[Tensor, "N R"]) -> Int[Tensor, "N"]:
        """The slot whose cluster each task most likely belongs to, the whole density counted."""
        rows = representation.detach().to(self.centre)
        return self.scores(rows, trust=float(rows.shape[1])).argmax(-1).cpu()


class Clusters(NamedTuple):
    """Gaussians of `C` clusters."""

    weight: np.ndarray
    centre: np.ndarray
    scale: np.ndarray


def fit_clusters(points: np.ndarray, labels: np.ndarray) -> Clusters:
    """Weight `(C,)`, centre `(C, R)` and scale `(C, R)` of every cluster `0..C - 1`; points of label -1 are left out.

    A cluster's variance is that of its points with ten more of the pooled variance within clusters, so that a cluster
    of a few tasks has a width too.
    """
    member = labels[:, None] == np.arange(labels.max() + 1)
    count = member.sum(0)
    centre = member.T @ points / count[:, None]
    square = np.stack([((points[one] - centre[c]) ** 2).sum(0) for c, one in enumerate(member.T)])
    pooled = square.sum(0) / count.sum()
    variance = (square + _PSEUDO_COUNT * pooled) / (count[:, None] + _PSEUDO_COUNT)
    smallest = _SMALLEST_SCALE * points.std(0) + 1e-6 * (1 + np.abs(points).max(0))
    return Clusters(count / count.sum(), centre, np.maximum(np.sqrt(variance), smallest))
