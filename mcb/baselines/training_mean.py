"""The predictor that never looks at the support set."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mcb.predictive import GaussianMixture
from mcb.types import Task


class TrainingMean(NamedTuple):
    """Predicts the mean of the training tasks, with their standard deviation about it, at every query point."""

    mean: Float[Tensor, "O"]
    log_scale: Float[Tensor, "O"]

    @classmethod
    def fit(cls, tasks: Task) -> "TrainingMean":
        """Moments over all points of `tasks`; each task counts the same, however many points it has."""
        y = torch.cat([tasks.support_y, tasks.query_y], dim=1).double()
        mask = torch.cat([tasks.support_mask, tasks.query_mask], dim=1).double()
        weights = (mask / mask.sum(1, keepdim=True) / len(mask)).unsqueeze(-1)
        mean = (weights * y).sum((0, 1))
        variance = (weights * (y - mean).square()).sum((0, 1))
        return cls(mean, 0.5 * variance.log())

    def __call__(self, tasks: Task) -> GaussianMixture:
        """The same Gaussian everywhere."""
        num_tasks, num_query, num_outputs = tasks.query_y.shape
        mean = self.mean.to(tasks.query_y).expand(num_tasks, 1, num_query, num_outputs)
        return GaussianMixture(mean.new_zeros(num_tasks, 1), mean, self.log_scale.to(mean).expand_as(mean))
