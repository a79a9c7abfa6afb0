"""One task under one mode, as an inference method sees it, and what a method gives back."""

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mcb.likelihoods import Likelihood
from mcb.networks.functional import BaseNetwork
from mcb.priors import GeneratedPrior
from mcb.sharing import UNSHARED, Sharing
from mcb.types import Support


class Problem(NamedTuple):
    """One task under one mode before its support set is seen: a prior, and how parameters predict.

    `sharing` says which of the particles this process computes.
    """

    network: BaseNetwork
    likelihood: Likelihood
    generated: GeneratedPrior
    sharing: Sharing = UNSHARED

    def predict(self, adapted: Float[Tensor, "D"], x: Float[Tensor, "N *x"]) -> Float[Tensor, "N O"]:
        """The base network's predictions under the adapted parameters."""
        return self.network(adapted, self.generated.conditional, x)

    def log_likelihood(self, support: Support, adapted: Float[Tensor, "D"]) -> Float[Tensor, ""]:
        """`log p(support y | x, parameters)`, a sum over the support points in nats."""
        densities = self.likelihood.log_density(self.predict(adapted, support.x), support.y, self.generated.likelihood)
        return torch.where(support.mask, densities, 0).sum()


class Components(NamedTuple):
    """One mode's share of the predictive mixture: `P` equally weighted predictions.

    `variance` is what the uncertainty of the parameters adds to the noise inside a component; zero for particles.
    """

    prediction: Float[Tensor, "P Q O"]
    variance: Float[Tensor, "P Q O"]


class Answer(NamedTuple):
    """What one mode makes of a task: `log p(support y | x, mode)` in nats, and its share of the predictive."""

    log_evidence: Float[Tensor, ""]
    components: Components


@runtime_checkable
class Posterior(Protocol):
    """The state of an adapted task: a NamedTuple of tensors, so that it can be batched."""

    @property
    def log_evidence(self) -> Float[Tensor, ""]:
        """`log p(support y | x, mode)` in nats, exact or estimated as the method says."""
        ...


P = TypeVar("P", bound=Posterior)


@runtime_checkable
class Inference(Protocol[P]):
    """Bayesian adaptation with bound hyperparameters and no state."""

    @property
    def num_particles(self) -> int:
        """Components in a mode's predictive."""
        ...

    @property
    def needs_noise(self) -> bool:
        """Whether `adapt` has to be given noise."""
        ...

    def check(self, network: BaseNetwork, likelihood: Likelihood) -> None:
        """Raises `ValueError` where the method does not apply to the network or the likelihood."""
        ...

    def adapt(self, problem: Problem, support: Support, noise: Float[Tensor, "P D"] | None) -> P:
        """The (approximate) posterior given the support set; `noise` is standard normal."""
        ...

    def location(self, problem: Problem, posterior: P) -> Float[Tensor, "D"]:
        """The mean of the adapted parameters under the posterior, that of this process's particles."""
        ...

    def predict(self, problem: Problem, posterior: P, x: Float[Tensor, "Q *x"]) -> Components:
        """The predictive's components at `x`."""
        ...

    def adapt_and_predict(
        self, problem: Problem, support: Support, noise: Float[Tensor, "P D"] | None, x: Float[Tensor, "Q *x"]
    ) -> Answer:
        """`predict` after `adapt`, where the inputs are known at once: `adapt_then_predict`, or something faster."""
        ...


def adapt_then_predict(
    inference: Inference, problem: Problem, support: Support, noise: Tensor | None, x: Tensor
) -> Answer:
    """The one after the other."""
    posterior = inference.adapt(problem, support, noise)
    return Answer(posterior.log_evidence, inference.predict(problem, posterior, x))
