"""Representations that compare a task with what the learner expects of any task: the prior of the mean code."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import grad

from mcb.inference.problem import Inference, Problem
from mcb.likelihoods import Likelihood
from mcb.networks.functional import BaseNetwork
from mcb.priors import GeneratedPrior
from mcb.randomness import fold_key, normals
from mcb.types import Support

_LARGEST_SIZE = 64  # numbers that represent a task


@runtime_checkable
class HasMeanCode(Protocol):
    """Modes whose codes have a mean (`mcb.modes.clustered.Clustered`)."""

    def mean_code(self) -> Float[Tensor, "code"]:
        """Of the codes in use."""
        ...


Hypernetwork = Callable[[Tensor], GeneratedPrior]


def shared_prior_size(network: BaseNetwork) -> int:
    """Length of these representations: the number of adapted parameters, at most 64."""
    return min(network.num_adapted, _LARGEST_SIZE)


class SharedPriorRepresentation(nn.Module, ABC):
    """A vector over the adapted parameters in whitened coordinates of the shared prior, not differentiated.

    More than 64 parameters are projected onto 64 fixed random directions, which keeps distances up to a few per cent
    (Johnson & Lindenstrauss 1984). The network, hypernetwork and modes are the learner's own: they are kept in a tuple,
    where they are found but neither named nor counted among this module's parameters a second time.
    """

    projection: Float[Tensor, "D R"] | None

    def __init__(
        self, network: BaseNetwork, hypernetwork: Hypernetwork, likelihood: Likelihood, modes: HasMeanCode
    ) -> None:
        super().__init__()
        self.embedding_size = shared_prior_size(network)
        self._learners = (network, hypernetwork, likelihood, modes)
        projection = None
        if network.num_adapted > self.embedding_size:
            rows = torch.arange(network.num_adapted)
            projection = normals(fold_key(0, "projection"), rows, self.embedding_size) * self.embedding_size**-0.5
        self.register_buffer("projection", projection, persistent=False)

    def forward(self, x: Float[Tensor, "S *x"], y: Float[Tensor, "S Y"], mask: Bool[Tensor, "S"]) -> Float[Tensor, "E"]:
        """The representation of one support set; zeros for an empty one."""
        network, hypernetwork, likelihood, modes = self._learners
        with torch.no_grad():
            problem = Problem(network, likelihood, hypernetwork(modes.mean_code()))
            whitened = self._whitened(problem, Support(x, likelihood.inputs_as_targets(y), mask))
            return whitened if self.projection is None else whitened @ self.projection.to(whitened)

    @abstractmethod
    def _whitened(self, problem: Problem, support: Support) -> Float[Tensor, "D"]:
        """The vector of one support set before it is projected."""


class SupportGradient(SharedPriorRepresentation):
    r"""$\operatorname{asinh}\big(\frac1S \nabla_z \log p(y \mid x, \mu + \sigma \odot z)\big)$ at the prior's mean.

    In which direction a first step of adaptation would go; the inverse hyperbolic sine keeps the few huge gradients
    of targets far from the prior within sight of the others.
    """

    def _whitened(self, problem: Problem, support: Support) -> Float[Tensor, "D"]:
        prior = problem.generated.adapted
        score = grad(lambda z: problem.log_likelihood(support, prior.unwhiten(z)))(torch.zeros_like(prior.mean))
        return (score / support.mask.sum().clamp(min=1)).asinh()


class AdaptedParameters(SharedPriorRepresentation):
    r"""$(\mathbb E[\theta \mid \text{support}] - \mu) / \sigma$: where adaptation ends.

    Raises `ValueError` for an inference method that starts at samples of the prior.
    """

    def __init__(
        self,
        network: BaseNetwork,
        hypernetwork: Hypernetwork,
        likelihood: Likelihood,
        modes: HasMeanCode,
        inference: Inference,
    ) -> None:
        super().__init__(network, hypernetwork, likelihood, modes)
        if inference.needs_noise:
            raise ValueError(
                f"{type(inference).__name__} starts at samples of the prior, and a representation is to be the same "
                "every time: give GradientDescent(prior_noise=False)"
            )
        self.inference = inference

    def _whitened(self, problem: Problem, support: Support) -> Float[Tensor, "D"]:
        prior = problem.generated.adapted
        location = self.inference.location(problem, self.inference.adapt(problem, support, None))
        return (location - prior.mean) * (-prior.log_scale).exp()
