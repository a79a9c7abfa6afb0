"""Meta-objectives: from what the learner says of a meta-batch's query sets to one loss per task."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mcb.likelihoods import Predictive
from mcb.predictive import GaussianMixture
from mcb.types import Task


class Prediction(NamedTuple):
    """The predictive at the query points, and how it came about.

    `log_evidence` is `log p(support y | x, mode)` and `log_marginal` the same with the modes summed out under the gate,
    both sums over the support points in nats.
    """

    predictive: Predictive
    log_responsibilities: Float[Tensor, "T K"]
    log_evidence: Float[Tensor, "T K"]
    log_marginal: Float[Tensor, "T"]

    @property
    def responsibilities(self) -> Float[Tensor, "T K"]:
        """Posterior probability of each mode given the support set."""
        return self.log_responsibilities.exp()


class Losses(NamedTuple):
    """Per task: the differentiable meta-objective, and what to report (detached), each a mean over query points."""

    loss: Float[Tensor, "T"]
    nll: Float[Tensor, "T"]
    squared_error: Float[Tensor, "T"]


MetaObjective = Callable[[Prediction, Task], Tensor]


def masked_mean(values: Float[Tensor, "T Q"], mask: Tensor) -> Float[Tensor, "T"]:
    """Mean over each task's existing points; zero for a task without any."""
    return torch.where(mask, values, 0).sum(-1) / mask.sum(-1).clamp(min=1)


def predictive_nll(prediction: Prediction, tasks: Task) -> Float[Tensor, "T"]:
    r"""$-\frac1{|Q|}\sum_{q} \log \sum_k r_k\, p_k(y_q \mid x_q, \text{support})$, nats per query point."""
    return -masked_mean(prediction.predictive.log_density(tasks.query_y), tasks.query_mask)


@dataclass(frozen=True)
class EvidenceRegularized:
    r"""The predictive NLL minus `weight` times the log marginal likelihood of the support set, nats per support point.

    Both terms are proper: the true prior minimises either. The predictive term alone lets modes that explain no task
    yet die, since it reaches them only through responsibilities that are already near zero and says nothing of how
    likely a support set was; the marginal likelihood is the objective of maximum-likelihood mixture fitting (empirical
    Bayes, type-II maximum likelihood), which moves modes to where the tasks are.

    Raises `ValueError` for a negative weight.
    """

    weight: float

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight={self.weight} must be at least 0")

    def __call__(self, prediction: Prediction, tasks: Task) -> Float[Tensor, "T"]:
        """One loss per task."""
        num_support = tasks.support_mask.sum(-1).clamp(min=1)
        return predictive_nll(prediction, tasks) - self.weight * prediction.log_marginal / num_support


def losses(prediction: Prediction, tasks: Task, meta_objective: MetaObjective) -> Losses:
    """The meta-objective of every task, with its negative log density and squared error for the record."""
    loss = meta_objective(prediction, tasks)
    with torch.no_grad():
        nll = loss.detach() if meta_objective is predictive_nll else predictive_nll(prediction, tasks)
        squared_error = torch.zeros_like(nll)
        if isinstance(prediction.predictive, GaussianMixture):
            error = (prediction.predictive.expectation() - tasks.query_y).square().mean(-1)
            squared_error = masked_mean(error, tasks.query_mask)
    return Losses(loss, nll, squared_error)
