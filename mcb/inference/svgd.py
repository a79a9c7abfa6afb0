"""Stein variational gradient descent in whitened coordinates (Liu & Wang 2016)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from mcb.inference.gradient import check_counts
from mcb.inference.kernels import Kernel, rbf
from mcb.inference.particles import LogDensity, ParticlePosterior, log_joint, predict_particles, prior_evidence
from mcb.inference.problem import Answer, Components, Problem, adapt_then_predict
from mcb.likelihoods import Likelihood
from mcb.networks.functional import BaseNetwork
from mcb.sharing import UNSHARED, Sharing
from mcb.types import Support


def stein_direction(
    particles: Float[Tensor, "P D"], scores: Float[Tensor, "P D"], kernel: Kernel, sharing: Sharing = UNSHARED
) -> Float[Tensor, "share D"]:
    r"""$\phi(z_i) = \frac1P \sum_j [k(z_j, z_i) \nabla \log p(z_j) + \nabla_{z_j} k(z_j, z_i)]$ (their equation 8)."""
    gram, repulsion = kernel(particles, sharing)
    return (gram @ scores + repulsion) / particles.shape[0]


def svgd(
    log_density: LogDensity,
    particles: Float[Tensor, "P D"],
    num_steps: int,
    step_size: float,
    kernel: Kernel = rbf,
    sharing: Sharing = UNSHARED,
) -> Float[Tensor, "share D"]:
    """`num_steps` along the Stein direction; one particle ascends the gradient. A rank moves its own particles."""
    moved = sharing.share(particles)
    for _ in range(num_steps):
        scores = sharing.gather(vmap(grad(log_density))(moved), particles.shape[0])
        everyone = sharing.gather(moved, particles.shape[0])
        moved = moved + step_size * stein_direction(everyone, scores, kernel, sharing)
    return moved


@dataclass(frozen=True)
class SVGD:
    """SVGD over particles that start at samples of the prior, with an RBF kernel at the median bandwidth.

    The meta-gradient flows through the steps and through the samples; the bandwidth is not differentiated. The evidence
    is the Monte Carlo estimate of `prior_evidence`.

    Raises `ValueError` for counts below one or a step size that is not above 0.
    """

    num_steps: int = 5
    step_size: float = 0.1
    num_particles: int = 10
    needs_noise: bool = True

    def __post_init__(self) -> None:
        check_counts(self.num_steps, self.step_size, self.num_particles)

    def check(self, network: BaseNetwork, likelihood: Likelihood) -> None:
        """Any network and likelihood will do."""

    def adapt(self, problem: Problem, support: Support, noise: Float[Tensor, "P D"] | None) -> ParticlePosterior:
        """The particles after the last step."""
        assert noise is not None  # `needs_noise` says so, and the learner has refused to go without
        prior = problem.generated.adapted
        start = vmap(prior.unwhiten)(problem.sharing.share(noise))
        evidence = prior_evidence(problem, support, start, self.num_particles)
        z = svgd(log_joint(problem, support), noise, self.num_steps, self.step_size, sharing=problem.sharing)
        return ParticlePosterior(vmap(prior.unwhiten)(z), evidence)

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
