"""What the particle methods share: their posterior, their start and their predictions."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from mcb.inference.problem import Components, Problem
from mcb.types import Support

LogDensity = Callable[[Tensor], Tensor]


class ParticlePosterior(NamedTuple):
    """Equally weighted parameter vectors of the base network, those of this rank where a group shares them out."""

    particles: Float[Tensor, "share D"]
    log_evidence: Float[Tensor, ""]


def prior_evidence(
    problem: Problem, support: Support, particles: Float[Tensor, "share D"], num_particles: int
) -> Float[Tensor, ""]:
    r"""$\log \frac1P \sum_p p(y \mid x, \theta_p)$ over all ranks' draws $\theta_p$ from the prior, nats.

    The mean inside the logarithm is unbiased for the evidence; with few particles its variance is large.
    """
    log_likelihoods = problem.sharing.gather(vmap(partial(problem.log_likelihood, support))(particles), num_particles)
    return log_likelihoods.logsumexp(0) - math.log(num_particles)


def log_joint(problem: Problem, support: Support) -> LogDensity:
    r"""$z \mapsto \log p(y \mid x, \mu + \sigma \odot z) - \frac12 |z|^2$, the whitened log posterior."""
    prior = problem.generated.adapted
    return lambda z: problem.log_likelihood(support, prior.unwhiten(z)) - 0.5 * z.square().sum()


def predict_particles(
    problem: Problem, posterior: ParticlePosterior, x: Float[Tensor, "Q *x"], num_particles: int
) -> Components:
    """One component for each particle of all ranks."""
    share = vmap(lambda particle: problem.predict(particle, x))(posterior.particles)
    prediction = problem.sharing.gather(share, num_particles)
    return Components(prediction, torch.zeros_like(prediction))
