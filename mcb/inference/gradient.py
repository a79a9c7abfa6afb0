"""Gradient ascent of the log posterior from samples of the prior."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from mcb.inference.particles import ParticlePosterior, log_joint, predict_particles, prior_evidence
from mcb.inference.problem import Answer, Components, Problem, adapt_then_predict
from mcb.likelihoods import Likelihood
from mcb.networks.functional import BaseNetwork
from mcb.types import Support


@dataclass(frozen=True)
class GradientDescent:
    r"""`num_steps` of $z \leftarrow z + \alpha \nabla_z \log p(z, y \mid x)$ from each prior sample.

    There $\theta = \mu + \sigma \odot z$. In `raw` coordinates the steps are
    $\theta \leftarrow \theta + \alpha \nabla_\theta \log p(y \mid x, \theta)$, without the prior's term; with one
    particle and no `prior_noise` that is MAML (Finn, Abbeel & Levine 2017), its loss a sum over the support in nats.
    `second_order=False` does not differentiate through the gradients (first-order MAML). Without `prior_noise` every
    particle starts at the prior's mean. The evidence is the Monte Carlo estimate of `prior_evidence`.

    Raises `ValueError` for counts below one or a step size that is not above 0.
    """

    num_steps: int = 5
    step_size: float = 0.01
    num_particles: int = 1
    second_order: bool = True
    prior_noise: bool = True
    coordinates: Literal["whitened", "raw"] = "whitened"

    def __post_init__(self) -> None:
        check_counts(self.num_steps, self.step_size, self.num_particles)

    @property
    def needs_noise(self) -> bool:
        """Whether the particles start at samples of the prior."""
        return self.prior_noise

    def check(self, network: BaseNetwork, likelihood: Likelihood) -> None:
        """Any network and likelihood will do."""

    def adapt(self, problem: Problem, support: Support, noise: Float[Tensor, "P D"] | None) -> ParticlePosterior:
        """The adapted particles."""
        prior = problem.generated.adapted
        at_mean = prior.mean.new_zeros(self.num_particles, prior.mean.numel())
        z = problem.sharing.share(at_mean if noise is None or not self.prior_noise else noise)
        start = vmap(prior.unwhiten)(z)
        evidence = prior_evidence(problem, support, start, self.num_particles)
        if self.coordinates == "raw":
            return ParticlePosterior(
                self._ascend(vmap(grad(partial(problem.log_likelihood, support))), start), evidence
            )
        return ParticlePosterior(
            vmap(prior.unwhiten)(self._ascend(vmap(grad(log_joint(problem, support))), z)), evidence
        )

    def location(self, problem: Problem, posterior: ParticlePosterior) -> Float[Tensor, "D"]:
        """The mean of the particles."""
        return posterior.particles.mean(0)

    def predict(self, problem: Problem, posterior: ParticlePosterior, x: Float[Tensor, "Q *x"]) -> Components:
        """One component for each particle."""
        return predict_particles(problem, posterior, x, self.num_particles)

    def adapt_and_predict(
        self, problem: Problem, support: Support, noise: Float[Tensor, "P D"] | None, x: Float[Tensor, "Q *x"]
    ) -> Answer:
        """The one after the other."""
        return adapt_then_predict(self, problem, support, noise, x)

    def _ascend(self, score, position: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
        for _ in range(self.num_steps):
            direction = score(position)
            position = position + self.step_size * (direction if self.second_order else direction.detach())
        return position


def check_counts(num_steps: int, step_size: float, num_particles: int) -> None:
    """Raises `ValueError` for hyperparameters that no iterative method can run with."""
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    if num_particles < 1:
        raise ValueError(f"num_particles={num_particles} must be at least 1")
    if not step_size > 0:
        raise ValueError(f"step_size={step_size} must be above 0")
