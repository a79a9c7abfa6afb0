"""Stein variational gradient descent where its fixed points are known: Gaussians, one particle, linear models."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from mcb.inference.gradient import GradientDescent
from mcb.inference.kernels import linear, median_bandwidth, rbf, squared_distances
from mcb.inference.particles import log_joint
from mcb.inference.problem import Problem
from mcb.inference.svgd import SVGD, stein_direction, svgd
from mcb.likelihoods import Gaussian
from mcb.networks.functional import BaseNetwork
from mcb.priors import GaussianPrior, GeneratedPrior
from mcb.sharing import Sharing
from mcb.types import Support

MEAN = torch.tensor([0.7, -1.2]).double()
COVARIANCE = torch.tensor([[1.0, 0.5], [0.5, 0.6]]).double()


def gaussian(z: Tensor) -> Tensor:
    """Log density up to a constant."""
    return -0.5 * (z - MEAN) @ torch.linalg.solve(COVARIANCE, z - MEAN)


def draws(num_particles: int, size: int = 2) -> Tensor:
    return torch.randn(num_particles, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make_problem() -> tuple[Problem, Support]:
    """A linear model in three weights under a prior of its own, and five points, one of them masked."""
    network = BaseNetwork(nn.Linear(3, 1, bias=False).double())
    prior = GaussianPrior(torch.tensor([0.5, -1, 0.2]).double(), torch.tensor([0.1, -0.4, 0.3]).double())
    generated = GeneratedPrior(prior, torch.zeros(0).double(), torch.zeros(1).double())
    x, y = draws(5, 3), draws(5, 1)
    return Problem(network, Gaussian(0.9).double(), generated), Support(x, y, torch.tensor([1, 1, 0, 1, 1]).bool())


def test_linear_kernel_matches_the_moments_of_a_gaussian():
    particles = svgd(gaussian, draws(6), num_steps=250, step_size=0.1, kernel=linear)
    torch.testing.assert_close(particles.mean(0), MEAN, rtol=0, atol=1e-6)
    torch.testing.assert_close(particles.T.cov(correction=0), COVARIANCE, rtol=0, atol=1e-6)


def test_linear_kernel_finds_the_textbook_posterior_of_a_linear_model():
    problem, support = make_problem()
    with torch.no_grad():
        z = svgd(log_joint(problem, support), draws(8, 3), num_steps=250, step_size=0.05, kernel=linear)
    particles = vmap(problem.generated.adapted.unwhiten)(z)
    mean, log_scale = problem.generated.adapted
    x, y = support.x[support.mask], support.y[support.mask, 0]
    assert isinstance(problem.likelihood, Gaussian)
    noise = problem.likelihood.scale(problem.generated.likelihood).square()
    covariance = torch.linalg.inv((-2 * log_scale).exp().diag() + x.T @ x / noise)
    expected = covariance @ ((-2 * log_scale).exp() * mean + x.T @ y / noise)
    torch.testing.assert_close(particles.mean(0), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(particles.T.cov(correction=0), covariance, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel", [rbf, linear])
def test_direction_is_the_double_sum_of_the_definition(kernel):
    particles = draws(4)
    bandwidth = median_bandwidth(squared_distances(particles, particles))

    def pair(z: Tensor, other: Tensor) -> Tensor:
        return 1 + z @ other if kernel is linear else (-(z - other).square().sum() / bandwidth).exp()

    score = grad(gaussian)
    expected = torch.stack(
        [
            sum((pair(b, a) * score(b) + grad(pair)(b, a) for b in particles), torch.zeros(2).double()) / 4
            for a in particles
        ]
    )
    torch.testing.assert_close(stein_direction(particles, vmap(score)(particles), kernel), expected)


def test_one_particle_is_gradient_ascent():
    problem, support = make_problem()
    noise = draws(1, 3)
    one = SVGD(num_steps=7, step_size=0.03, num_particles=1).adapt(problem, support, noise)
    ascent = GradientDescent(num_steps=7, step_size=0.03, num_particles=1).adapt(problem, support, noise)
    torch.testing.assert_close(one, ascent, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kernel", [rbf, linear])
def test_particles_have_no_order(kernel):
    order = torch.tensor([3, 0, 4, 1, 2])
    run = partial(svgd, gaussian, num_steps=20, step_size=0.2, kernel=kernel)
    torch.testing.assert_close(run(draws(5)[order]), run(draws(5))[order])


def test_particles_repel_each_other_and_gradient_ascent_collapses():
    problem, support = make_problem()
    noise = draws(10, 3)
    with torch.no_grad():
        stein = SVGD(num_steps=50, step_size=0.3, num_particles=10).adapt(problem, support, noise).particles
        ascent = (
            GradientDescent(num_steps=150, step_size=0.06, num_particles=10).adapt(problem, support, noise).particles
        )
    assert (ascent.std(0) < 1e-6).all() and (stein.std(0) > 0.1).all()
    torch.testing.assert_close(stein.mean(0), ascent.mean(0), rtol=0, atol=0.05)


def test_gradient_through_the_steps_is_that_of_finite_differences():
    """With the linear kernel: the bandwidth of the other is deliberately not differentiated."""
    problem, support = make_problem()

    def adapted(mean: Tensor, log_scale: Tensor, noise: Tensor) -> Tensor:
        prior = GaussianPrior(mean, log_scale)
        changed = problem._replace(generated=problem.generated._replace(adapted=prior))
        return vmap(prior.unwhiten)(svgd(log_joint(changed, support), noise, 3, 0.05, linear))

    leaves = tuple(leaf.clone().requires_grad_() for leaf in (*problem.generated.adapted, draws(4, 3)))
    assert torch.autograd.gradcheck(adapted, leaves)


def test_gradient_through_the_rbf_kernel_is_that_at_a_frozen_bandwidth():
    particles = draws(4).requires_grad_()
    bandwidth = median_bandwidth(squared_distances(particles, particles)).item()

    def frozen(z: Tensor, sharing: Sharing) -> tuple[Tensor, Tensor]:
        kernel = (-squared_distances(z, z) / bandwidth).exp()
        return kernel, (kernel[..., None] * (z[:, None] - z[None])).sum(1) * 2 / bandwidth

    slopes = [
        torch.autograd.grad(svgd(gaussian, particles, 1, 0.2, k).sin().sum(), particles)[0] for k in (rbf, frozen)
    ]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_steps": 0}, r"num_steps=0 must be at least 1"),
        ({"num_particles": -1}, r"num_particles=-1 must be at least 1"),
        ({"step_size": 0.0}, r"step_size=0\.0 must be above 0"),
        ({"step_size": float("nan")}, r"step_size=nan must be above 0"),
    ],
)
@pytest.mark.parametrize("method", [SVGD, GradientDescent])
def test_hyperparameters_out_of_range_are_refused(method, wrong, message):
    with pytest.raises(ValueError, match=message):
        method(**wrong)
