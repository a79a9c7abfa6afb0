"""A gate made of clusters: how likely each slot is, given where in the space of representations a task lies."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_PSEUDO_COUNT = 10.0  # tasks' worth of the pooled variance in that of each cluster
_SMALLEST_SCALE = 1e-3  # of a cluster, in standard deviations of all tasks


class ClusterGate(NamedTuple):
    """`K` slots, of which those in use have a share of the tasks and a diagonal Gaussian."""

    in_use: Float[Tensor, "K"]
    log_weight: Float[Tensor, "K"]
    centre: Float[Tensor, "K R"]
    log_scale: Float[Tensor, "K R"]

    def log_density(self, representation: Float[Tensor, "*n R"]) -> Float[Tensor, "*n K"]:
        """Of each slot's Gaussian but for a constant, nats."""
        deviation = (representation[..., None, :] - self.centre) * (-self.log_scale).exp()
        return -(0.5 * deviation.square() + self.log_scale).sum(-1)

    def nearest(self, representation: Float[Tensor, "*n R"]) -> Int[Tensor, "*n"]:
        """The slot whose cluster a task most likely belongs to."""
        scores = self.log_weight + self.log_density(representation)
        return torch.where(self.in_use > 0, scores, -torch.inf).argmax(-1)


class Clusters(NamedTuple):
    """Gaussians of `C` clusters."""

    weight: np.ndarray
    centre: np.ndarray
    scale: np.ndarray


def fit_clusters(points: np.ndarray, labels: np.ndarray) -> Clusters:
    """Weight `(C,)`, centre `(C, R)` and scale `(C, R)` of every cluster `0..C - 1`; points of label -1 are left out.

    A cluster's variance is that of its points with ten more of the pooled variance within clusters, so that a cluster
    of a few tasks has a width too. A column that is constant over all tasks is given a scale so wide that a later
    move of it, with the parameters, says nothing.
    """
    member = labels[:, None] == np.arange(labels.max() + 1)
    count = member.sum(0)
    centre = member.T @ points / count[:, None]
    square = np.stack([((points[one] - centre[c]) ** 2).sum(0) for c, one in enumerate(member.T)])
    pooled = square.sum(0) / count.sum()
    variance = (square + _PSEUDO_COUNT * pooled) / (count[:, None] + _PSEUDO_COUNT)
    largest = np.abs(points).max(0)
    is_constant = points.std(0) <= 1e-6 * largest
    smallest = np.where(is_constant, 1 + largest, _SMALLEST_SCALE * points.std(0))
    return Clusters(count / count.sum(), centre, np.maximum(np.sqrt(variance), smallest))
