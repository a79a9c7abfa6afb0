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
    """Equally weighted parameter vectors of the base network."""

    particles: Float[Tensor, "P D"]
    log_evidence: Float[Tensor, ""]


def prior_evidence(problem: Problem, support: Support, particles: Float[Tensor, "P D"]) -> Float[Tensor, ""]:
    r"""$\log \frac1P \sum_p p(y \mid x, \theta_p)$ over draws $\theta_p$ from the prior, nats.

    The mean inside the logarithm is unbiased for the evidence; with few particles its variance is large.
    """
    return vmap(partial(problem.log_likelihood, support))(particles).logsumexp(0) - math.log(particles.shape[0])


def log_joint(problem: Problem, support: Support) -> LogDensity:
    r"""$z \mapsto \log p(y \mid x, \mu + \sigma \odot z) - \frac12 |z|^2$, the whitened log posterior."""
    prior = problem.generated.adapted
    return lambda z: problem.log_likelihood(support, prior.unwhiten(z)) - 0.5 * z.square().sum()


def predict_particles(problem: Problem, posterior: ParticlePosterior, x: Float[Tensor, "Q *x"]) -> Components:
    """One component for each particle."""
    prediction = vmap(lambda particle: problem.predict(particle, x))(posterior.particles)
    return Components(prediction, torch.zeros_like(prediction))
