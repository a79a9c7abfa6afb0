"""Tasks after adaptation: a batch of them, and the one that `learner.adapt` gives a user."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mcb.finite import refuse_non_finite
from mcb.likelihoods import Predictive
from mcb.priors import GeneratedPrior


class WeighedModes(NamedTuple):
    """Bayes' rule over the modes: `log_marginal` is the evidence with the modes summed out under the gate, in nats."""

    log_responsibilities: Float[Tensor, "T K"]
    log_evidence: Float[Tensor, "T K"]
    log_marginal: Float[Tensor, "T"]


class AdaptedTasks(NamedTuple):
    """Adapted tasks; of a group, this rank's share of the modes.

    Where codes are shared, `generated` leads with K and `posterior` with (K, T), else both with (T, K).
    """

    generated: GeneratedPrior
    posterior: Any
    log_responsibilities: Float[Tensor, "T K"]
    log_evidence: Float[Tensor, "T K"]
    log_marginal: Float[Tensor, "T"]


@runtime_checkable
class PredictsTasks(Protocol):
    """What an adapted task needs of its learner."""

    def predict_tasks(self, adapted: AdaptedTasks, x: Float[Tensor, "T Q *x"]) -> Predictive:
        """The mixture over modes and particles at each task's query inputs."""
        ...


@dataclass(frozen=True)
class AdaptedTask:
    """One task after adaptation: `learner.adapt(x, y)`."""

    learner: PredictsTasks
    tasks: AdaptedTasks

    @property
    def responsibilities(self) -> Float[Tensor, "K"]:
        """Posterior probability of each mode."""
        return self.tasks.log_responsibilities[0].exp()

    def predict(self, x: Float[Tensor, "Q *x"]) -> Predictive:
        """The predictive at `x`: `.expectation()`, `.interval(0.9)`, … for numbers, `.probabilities()` for classes."""
        refuse_non_finite(x)
        with torch.no_grad():
            predictive = self.learner.predict_tasks(self.tasks, x[None])
        return type(predictive)(*(leaf[0] for leaf in predictive))
