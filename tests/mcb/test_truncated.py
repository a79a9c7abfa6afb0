"""The closed forms of a uniform parameter in a linear Gaussian likelihood, against quadrature and their limits."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from mcb.truncated import LinearLikelihood

NOISE_SCALE = 0.3
NUM_POINTS = 200_000
SLOPE = torch.tensor([0.5, -1.0, 2.0]).double()


def likelihood(b: float, slope: Tensor = SLOPE) -> LinearLikelihood:
    residual = b * slope + torch.tensor([0.1, -0.3, 0.2]).double()
    return LinearLikelihood.of_points(residual, slope, NOISE_SCALE)


def quadrature(b: float, slope: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Log evidence and posterior mean from a midpoint rule of many points."""
    grid = low + (high - low) * (torch.arange(NUM_POINTS).double() + 0.5) / NUM_POINTS
    residual = b * slope + torch.tensor([0.1, -0.3, 0.2]).double()
    log_density = Normal(grid[:, None] * slope, NOISE_SCALE).log_prob(residual).sum(1)
    return log_density.logsumexp(0) - math.log(NUM_POINTS), log_density.softmax(0) @ grid


@pytest.mark.parametrize("b", [-8.0, 0.2, 2.9, 3.3])
@pytest.mark.parametrize("slope", [SLOPE, 0.01 * SLOPE, 0 * SLOPE], ids=["informative", "weak", "silent"])
def test_evidence_and_mean_equal_quadrature(b: float, slope: Tensor):
    log_evidence, mean = quadrature(b, slope, -1.0, 3.0)
    torch.testing.assert_close(likelihood(b, slope).log_evidence(-1.0, 3.0), log_evidence, rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(likelihood(b, slope).posterior_mean(-1.0, 3.0), mean, rtol=0, atol=1e-6)


def test_a_wide_prior_gives_least_squares():
    residual = 0.7 * SLOPE + torch.tensor([0.1, -0.3, 0.2]).double()
    torch.testing.assert_close(likelihood(0.7).posterior_mean(-50.0, 50.0), SLOPE @ residual / (SLOPE @ SLOPE))


def test_the_largest_likelihood_bounds_the_evidence_and_is_attained():
    b = torch.linspace(-2, 4, 13).double()
    largest = torch.stack([likelihood(float(value)).log_largest(-1.0, 3.0) for value in b])
    evidence = torch.stack([likelihood(float(value)).log_evidence(-1.0, 3.0) for value in b])
    narrow = torch.stack([likelihood(float(value)).log_evidence(3.0 - 1e-7, 3.0) for value in b[-2:]])
    assert (largest > evidence).all()
    torch.testing.assert_close(largest[-2:], narrow, rtol=0, atol=1e-4)  # above the range the best b is its end


@pytest.mark.parametrize("sign", [-1, 1])
def test_far_outside_the_range_the_posterior_is_exponential_at_the_near_end(sign: int):
    distance, precision = 100.0, float(SLOPE @ SLOPE) / NOISE_SCALE**2
    residual = sign * (3.0 + distance) * SLOPE
    far = LinearLikelihood.of_points(residual, SLOPE, NOISE_SCALE)
    at_end = Normal(sign * 3.0 * SLOPE, NOISE_SCALE).log_prob(residual).sum()
    mean = torch.tensor(sign * (3.0 - 1 / (precision * distance))).double()
    torch.testing.assert_close(far.posterior_mean(-3.0, 3.0), mean, rtol=0, atol=1e-7)
    torch.testing.assert_close(
        far.log_evidence(-3.0, 3.0), at_end - math.log(precision * distance * 6), rtol=0, atol=1e-5
    )
