"""What clustering sees of a task: closed forms, and what a representation must not depend on."""

import copy

import pytest
import torch
from small_learners import CODE, INFERENCES, draws, make_learner, make_tasks
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.func import vmap

from mcb.hypernetwork import PriorHypernetwork
from mcb.inference.gradient import GradientDescent
from mcb.inference.problem import Problem
from mcb.learner import ModeConditionalBayesianMAML
from mcb.likelihoods import Gaussian
from mcb.modes.clustered import Clustered
from mcb.modes.clustering import KMeans
from mcb.modes.representations import SupportStatistics
from mcb.modes.shared_prior import AdaptedParameters, SharedPriorRepresentation, SupportGradient, shared_prior_size
from mcb.networks.functional import BaseNetwork
from mcb.networks.mlp import MLP
from mcb.tasks.regression import RegressionFamilies
from mcb.types import Support


def statistics(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    mask = torch.ones(len(x), dtype=torch.bool) if mask is None else mask
    return SupportStatistics(x[0].numel(), y.shape[1])(x, y, mask).double()


def make_shared_prior(
    kind: str, inference: str = "conjugate", data: str = "mlp"
) -> tuple[ModeConditionalBayesianMAML, SharedPriorRepresentation]:
    """A learner whose clustered modes read such a representation."""
    base = make_learner("clustered, soft", inference, data)
    modes = Clustered(3, CODE, shared_prior_size(base.model), KMeans(2)).double()
    parts = (base.model, base.prior_hypernetwork, base.likelihood, modes)
    encoder = SupportGradient(*parts) if kind == "gradient" else AdaptedParameters(*parts, base.inference)
    learner = ModeConditionalBayesianMAML(
        encoder, base.prior_hypernetwork, base.model, modes=modes, inference=base.inference, likelihood=base.likelihood
    )
    return learner, encoder


def mean_problem(learner: ModeConditionalBayesianMAML) -> Problem:
    assert isinstance(learner.modes, Clustered)
    generated = learner.prior_hypernetwork(learner.modes.table.mean(0))
    return Problem(learner.model, learner.likelihood, generated)


def test_support_statistics_tell_the_families_apart_at_a_glance():
    """A nearest-class-mean classifier of three families: chance is a third."""
    tasks = RegressionFamilies.three_modes().sample(0, torch.arange(1200))
    seen = vmap(SupportStatistics(1, 1))(*tasks.support).double()
    seen = (seen - seen.mean(0)) / seen.std(0)
    means = torch.stack([seen[:600][tasks.mode[:600] == mode].mean(0) for mode in range(3)])
    accuracy = (torch.cdist(seen[600:], means).argmin(1) == tasks.mode[600:]).double().mean()
    assert accuracy > 0.7


def test_the_evidences_are_densities_of_a_gaussian_with_its_scale_integrated_out():
    """Of the line, against a fine sum over the scale under Jeffreys' prior."""
    x, y = draws(4, 1), draws(4, 1, seed=1)
    lines = x @ x.T / x.square().mean()
    log_scale = torch.linspace(-12, 12, 4001).double()

    def log_evidence(kernel: Tensor) -> Tensor:
        covariance = 100 * (kernel + 1) + torch.eye(4)
        unit = MultivariateNormal(torch.zeros(4).double(), covariance)
        return (unit.log_prob(y[:, 0] * (-log_scale[:, None]).exp()) - 4 * log_scale).logsumexp(0)

    expected = (log_evidence(lines) - log_evidence(torch.zeros(4, 4))) / 4
    torch.testing.assert_close(statistics(x, y)[0], expected, rtol=1e-5, atol=1e-6)


def test_which_function_class_explains_the_targets_does_not_depend_on_their_scale():
    x, y = draws(6, 1), draws(6, 1, seed=1)
    num_evidences = statistics(x, y).numel() - 4
    for scale in (1e-4, 1e5):
        torch.testing.assert_close(
            statistics(x, scale * y)[:num_evidences], statistics(x, y)[:num_evidences], rtol=1e-5, atol=1e-6
        )


def test_a_line_is_best_explained_as_a_line_and_a_parabola_as_a_parabola():
    x = torch.linspace(-3, 3, 8).double()[:, None]
    assert statistics(x, 2 * x + 1)[:6].argmax() == 0
    assert statistics(x, x.square() - x)[:6].argmax() == 1


@pytest.mark.parametrize("x_shape", [(1,), (3,), (5,), (2, 3, 3)])
@pytest.mark.parametrize("y_size", [1, 4])
def test_statistics_have_no_order_of_points_and_no_sight_of_masked_places(x_shape, y_size):
    x, y = draws(6, *x_shape), draws(6, y_size, seed=1)
    seen = statistics(x, y)
    assert seen.shape == (SupportStatistics(x[0].numel(), y_size).embedding_size,) and seen.isfinite().all()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(statistics(x[order], y[order]), seen, rtol=1e-4, atol=1e-5)
    mask = torch.tensor([True] * 6 + [False] * 2)
    more_x, more_y = torch.cat([x, torch.full((2, *x_shape), 99.0)]), torch.cat([y, torch.full((2, y_size), -99.0)])
    torch.testing.assert_close(statistics(more_x, more_y, mask), seen, rtol=1e-4, atol=1e-5)


def test_degenerate_support_sets_have_finite_statistics():
    for x, y in (
        (torch.zeros(5, 1), torch.zeros(5, 1)),
        (torch.ones(1, 1), torch.ones(1, 1)),
        (1e6 * draws(5, 1), 1e-6 * draws(5, 1)),
        (torch.zeros(5, 9), torch.eye(5)),
    ):
        assert statistics(x.double(), y.double()).isfinite().all()
    nothing = statistics(torch.ones(3, 1), torch.ones(3, 1), torch.zeros(3, dtype=torch.bool))
    assert not nothing.any()


def test_the_support_gradient_is_that_of_the_log_likelihood_at_the_shared_priors_mean():
    learner, encoder = make_shared_prior("gradient")
    tasks, problem = make_tasks(), mean_problem(learner)
    survey = learner.survey(tasks.support, tasks.mode, None)
    for index, leaves in enumerate(zip(*tasks.support, strict=True)):
        support = Support(*(leaf[leaves[2]] for leaf in leaves))
        support = support._replace(mask=torch.ones(len(support.x), dtype=torch.bool))
        mean = problem.generated.adapted.mean.detach().requires_grad_()
        (score,) = torch.autograd.grad(problem.log_likelihood(support, mean), mean)
        whitened = score * problem.generated.adapted.log_scale.detach().exp() / len(support.x)
        torch.testing.assert_close(survey[index].sinh(), whitened)
    assert encoder.embedding_size == survey.shape[1] == learner.model.num_adapted


def test_adapted_parameters_are_the_posterior_mean_in_whitened_coordinates():
    """Against the posterior of all parameters of the linear head, solved densely."""
    learner, _ = make_shared_prior("adapted")
    tasks, problem = make_tasks(), mean_problem(learner)
    prior, likelihood = problem.generated.adapted, learner.likelihood
    assert isinstance(likelihood, Gaussian)
    survey = learner.survey(tasks.support, tasks.mode, None)
    for index, (x, y, mask) in enumerate(zip(*tasks.support, strict=True)):
        features = learner.model.features(problem.generated.conditional, x[mask])
        design = torch.cat([features, torch.ones(len(features), 1)], dim=1) * prior.log_scale.exp()
        noise = likelihood.scale(problem.generated.likelihood).square()
        residual = y[mask, 0] - learner.model(prior.mean, problem.generated.conditional, x[mask])[:, 0]
        expected = torch.linalg.solve(
            design.T @ design / noise + torch.eye(design.shape[1]), design.T @ residual / noise
        )
        torch.testing.assert_close(survey[index], expected.detach())


def test_adapted_parameters_of_particles_are_where_their_steps_end():
    learner, encoder = make_shared_prior("adapted", "maml")
    tasks, problem = make_tasks(), mean_problem(learner)
    noiseless = learner.inference
    assert isinstance(noiseless, GradientDescent) and isinstance(encoder, AdaptedParameters)
    support = Support(*(leaf[0] for leaf in tasks.support))
    particle = noiseless.adapt(problem, support, None).particles[0]
    expected = (particle - problem.generated.adapted.mean) * (-problem.generated.adapted.log_scale).exp()
    torch.testing.assert_close(learner.survey(tasks.support, tasks.mode, None)[0], expected.detach())


@pytest.mark.parametrize("name", ["gradient", "svgd"])
def test_adaptation_from_random_samples_represents_no_task(name):
    with pytest.raises(ValueError, match=f"{type(INFERENCES[name]).__name__} starts at samples of the prior"):
        make_shared_prior("adapted", name)


@pytest.mark.parametrize(
    ("kind", "inference", "data"), [("gradient", "svgd", "classes"), ("gradient", "svgd", "images")]
)
def test_the_support_gradient_knows_classes_and_images(kind, inference, data):
    learner, _ = make_shared_prior(kind, inference, data)
    tasks = make_tasks(data)
    survey = learner.survey(tasks.support, tasks.mode, None)
    assert survey.shape == (3, learner.model.num_adapted) and survey.isfinite().all() and survey.any(1).all()


def test_many_parameters_are_projected_and_keep_their_distances():
    model = BaseNetwork(MLP(1, 1, hidden=(40, 40)))
    assert shared_prior_size(model) == 64 < model.num_adapted
    hypernetwork = PriorHypernetwork(CODE, model, num_offsets=1)
    modes, likelihood = Clustered(3, CODE, 64, KMeans(2)), Gaussian()
    encoder = SupportGradient(model, hypernetwork, likelihood, modes)
    assert encoder.projection is not None
    points = torch.randn(20, model.num_adapted, generator=torch.Generator().manual_seed(0))
    ratio = torch.pdist(points @ encoder.projection) / torch.pdist(points)
    assert ratio.min() > 0.6 and ratio.max() < 1.4
    assert encoder(torch.ones(3, 1), torch.ones(3, 1), torch.ones(3, dtype=torch.bool)).shape == (64,)
    again = SupportGradient(model, hypernetwork, likelihood, modes)
    assert again.projection is not None and torch.equal(encoder.projection, again.projection)


@pytest.mark.parametrize("kind", ["gradient", "adapted"])
def test_the_learners_parameters_keep_their_names_and_order(kind):
    learner, encoder = make_shared_prior(kind)
    statistics_learner = make_learner("clustered, soft")
    statistics_learner.task_encoder = None
    assert [name for name, _ in learner.named_parameters()] == [
        name for name, _ in statistics_learner.named_parameters()
    ]
    assert not list(encoder.parameters()) and not encoder.state_dict()


@pytest.mark.parametrize("kind", ["gradient", "adapted"])
def test_a_copied_learners_representation_reads_the_copy(kind):
    learner, _ = make_shared_prior(kind)
    tasks = make_tasks()
    copied = copy.deepcopy(learner)
    torch.testing.assert_close(copied.survey(*_asked(tasks)), learner.survey(*_asked(tasks)))
    for parameter in learner.parameters():
        nn.init.normal_(parameter)
    assert not torch.allclose(copied.survey(*_asked(tasks)), learner.survey(*_asked(tasks)))


@pytest.mark.parametrize("kind", ["gradient", "adapted"])
def test_no_gradient_flows_through_the_representation(kind):
    learner, encoder = make_shared_prior(kind)
    tasks = make_tasks()
    assert not encoder(*(leaf[0] for leaf in tasks.support)).requires_grad
    learner.losses(tasks, None).loss.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in learner.parameters())


def _asked(tasks):
    return tasks.support, tasks.mode, None
