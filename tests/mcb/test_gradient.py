"""Gradient adaptation on linear models, whose log likelihood is quadratic: steps and meta-gradients in closed form."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.func import grad

from mcb.inference.gradient import GradientDescent
from mcb.inference.problem import Problem
from mcb.likelihoods import Categorical, Gaussian
from mcb.networks.functional import BaseNetwork
from mcb.priors import GaussianPrior, GeneratedPrior
from mcb.types import Support

SIZE, NOISE_SCALE, STEP = 3, 0.8, 0.03
MEAN = torch.tensor([0.4, -1.1, 0.6]).double()
LOG_SCALE = torch.tensor([0.2, -0.5, 0.0]).double()
NETWORK = BaseNetwork(nn.Linear(SIZE, 1, bias=False).double())
LIKELIHOOD = Gaussian(NOISE_SCALE).double()


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SUPPORT = Support(draws(5, SIZE), draws(5, 1, seed=1), torch.tensor([1, 1, 0, 1, 1]).bool())
QUERY_X, QUERY_Y = draws(4, SIZE, seed=2), draws(4, 1, seed=3)
CURVATURE = (
    SUPPORT.x[SUPPORT.mask].T @ SUPPORT.x[SUPPORT.mask] / NOISE_SCALE**2
)  # minus the Hessian of the log likelihood
PULL = SUPPORT.x[SUPPORT.mask].T @ SUPPORT.y[SUPPORT.mask, 0] / NOISE_SCALE**2  # its gradient at zero


def make_problem(mean: Tensor = MEAN, log_scale: Tensor = LOG_SCALE) -> Problem:
    generated = GeneratedPrior(GaussianPrior(mean, log_scale), torch.zeros(0).double(), torch.zeros(1).double())
    return Problem(NETWORK, LIKELIHOOD, generated)


def query_loss(particles: Tensor) -> Tensor:
    """Negative log likelihood of the query points, summed over particles."""
    return -Normal(QUERY_X @ particles.T, NOISE_SCALE).log_prob(QUERY_Y).sum()


def meta_loss(inference: GradientDescent, mean: Tensor, noise: Tensor | None = None) -> Tensor:
    problem = make_problem(mean)
    predicted = inference.predict(problem, inference.adapt(problem, SUPPORT, noise), QUERY_X)
    assert not predicted.variance.any()
    return -Normal(predicted.prediction, NOISE_SCALE).log_prob(QUERY_Y).sum()


def by_autograd(function, mean: Tensor) -> Tensor:
    leaf = mean.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]


def by_functorch(function, mean: Tensor) -> Tensor:
    return grad(function)(mean)


differentiate = pytest.mark.parametrize("differentiate", [by_autograd, by_functorch])


@differentiate
@pytest.mark.parametrize("num_steps", [1, 3])
def test_meta_gradient_of_maml_on_a_quadratic(differentiate, num_steps):
    """One step takes the gradient at the adapted parameters back through (I - aA)ᵀ, several through its power."""
    maml = GradientDescent(num_steps, STEP, prior_noise=False, coordinates="raw")
    adapted = MEAN
    for _ in range(num_steps):
        adapted = adapted + STEP * (PULL - CURVATURE @ adapted)
    torch.testing.assert_close(maml.adapt(make_problem(), SUPPORT, None).particles[0], adapted)
    factor = torch.linalg.matrix_power(torch.eye(SIZE).double() - STEP * CURVATURE, num_steps)
    expected = factor.T @ grad(lambda theta: query_loss(theta[None]))(adapted)
    torch.testing.assert_close(differentiate(lambda mean: meta_loss(maml, mean), MEAN), expected)


@differentiate
@pytest.mark.parametrize("num_steps", [1, 3])
def test_first_order_drops_the_factor_and_nothing_else(differentiate, num_steps):
    settings = {"prior_noise": False, "coordinates": "raw"}
    first = GradientDescent(num_steps, STEP, second_order=False, **settings)
    second = GradientDescent(num_steps, STEP, **settings)
    adapted = first.adapt(make_problem(), SUPPORT, None).particles
    torch.testing.assert_close(adapted, second.adapt(make_problem(), SUPPORT, None).particles, rtol=0, atol=0)
    expected = grad(lambda theta: query_loss(theta[None]))(adapted[0])
    torch.testing.assert_close(differentiate(lambda mean: meta_loss(first, mean), MEAN), expected)


@differentiate
def test_whitened_step_is_preconditioned_by_the_prior_variance(differentiate):
    """z' = z + a (s * score(m + s z) - z), so that the mean's gradient comes back through (I - a s² A)ᵀ."""
    inference, noise = GradientDescent(1, STEP, num_particles=2), draws(2, SIZE, seed=4)
    scale = LOG_SCALE.exp()
    start = MEAN + scale * noise
    adapted = start + STEP * scale * (scale * (PULL - start @ CURVATURE) - noise)
    torch.testing.assert_close(inference.adapt(make_problem(), SUPPORT, noise).particles, adapted)
    factor = torch.eye(SIZE).double() - STEP * scale.square().diag() @ CURVATURE
    expected = factor.T @ sum((grad(lambda theta: query_loss(theta[None]))(particle) for particle in adapted), 0 * MEAN)
    torch.testing.assert_close(differentiate(lambda mean: meta_loss(inference, mean, noise), MEAN), expected)


@pytest.mark.parametrize("coordinates", ["whitened", "raw"])
def test_gradient_is_that_of_finite_differences_in_prior_and_noise(coordinates):
    inference = GradientDescent(2, STEP, num_particles=2, coordinates=coordinates)

    def outputs(mean: Tensor, log_scale: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return inference.adapt(make_problem(mean, log_scale), SUPPORT, noise)

    leaves = tuple(leaf.clone().requires_grad_() for leaf in (MEAN, LOG_SCALE, draws(2, SIZE, seed=4)))
    assert torch.autograd.gradcheck(outputs, leaves)


def test_whitened_ascent_ends_at_the_textbook_posterior_mode_from_anywhere():
    inference = GradientDescent(300, 0.06, num_particles=4)
    precision = (-2 * LOG_SCALE).exp()
    expected = torch.linalg.solve(precision.diag() + CURVATURE, precision * MEAN + PULL)
    with torch.no_grad():
        particles = inference.adapt(make_problem(), SUPPORT, draws(4, SIZE, seed=4)).particles
    torch.testing.assert_close(particles, expected.expand(4, -1), rtol=0, atol=1e-9)


def test_evidence_is_the_log_mean_likelihood_of_the_prior_samples():
    noise = draws(6, SIZE, seed=4)
    samples = MEAN + LOG_SCALE.exp() * noise
    likelihoods = Normal(SUPPORT.x @ samples.T, NOISE_SCALE).log_prob(SUPPORT.y)[SUPPORT.mask].sum(0)
    evidence = GradientDescent(1, STEP, num_particles=6).adapt(make_problem(), SUPPORT, noise).log_evidence
    torch.testing.assert_close(evidence, likelihoods.exp().mean().log())


def test_without_prior_noise_every_particle_starts_at_the_mean_whatever_noise_is_given():
    inference = GradientDescent(2, STEP, num_particles=3, prior_noise=False)
    assert not inference.needs_noise and GradientDescent().needs_noise
    for noise in (None, draws(3, SIZE)):
        posterior = inference.adapt(make_problem(), SUPPORT, noise)
        at_mean = GradientDescent(2, STEP).adapt(make_problem(), SUPPORT, torch.zeros(1, SIZE).double())
        torch.testing.assert_close(posterior.particles, at_mean.particles.expand(3, -1))
        torch.testing.assert_close(posterior.log_evidence, at_mean.log_evidence)


def test_classes_ascend_the_gradient_of_the_cross_entropy():
    """One step from the mean of a linear classifier: the residuals, one-hot minus softmax, times the inputs."""
    x, y = draws(6, SIZE), torch.tensor([0, 2, 1, 3, 3, 0])
    mean = draws(4, SIZE, seed=5)
    generated = GeneratedPrior(
        GaussianPrior(mean.flatten(), torch.zeros(4 * SIZE).double()), torch.zeros(0).double(), torch.zeros(0).double()
    )
    problem = Problem(BaseNetwork(nn.Linear(SIZE, 4, bias=False).double()), Categorical(4), generated)
    maml = GradientDescent(1, STEP, prior_noise=False)
    maml.check(problem.network, problem.likelihood)
    posterior = maml.adapt(problem, Support(x, y, torch.ones(6).bool()), None)
    residual = torch.nn.functional.one_hot(y, 4) - (x @ mean.T).softmax(-1)
    torch.testing.assert_close(posterior.particles.view(4, SIZE), mean + STEP * residual.T @ x)
    cross_entropy = torch.nn.functional.cross_entropy(x @ mean.T, y, reduction="sum")
    assert posterior.log_evidence.item() == pytest.approx(-cross_entropy.item(), rel=1e-12)
    assert math.isfinite(cross_entropy.item())
