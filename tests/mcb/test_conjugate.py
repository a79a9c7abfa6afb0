"""The exact linear head against MultivariateNormal and the textbook posterior over its weights (Bishop 2006, 3.3)."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from mcb.inference.conjugate import Conjugate
from mcb.inference.problem import Answer, Problem, adapt_then_predict
from mcb.likelihoods import Categorical, Gaussian
from mcb.networks.functional import BaseNetwork
from mcb.networks.mlp import MLP
from mcb.priors import GaussianPrior, GeneratedPrior
from mcb.types import Support

CASES = pytest.mark.parametrize(
    ("num_outputs", "bias", "present"),
    [
        pytest.param(1, True, [1, 1, 1], id="one output"),
        pytest.param(3, True, [1, 1, 1, 1, 1], id="three outputs"),
        pytest.param(1, False, [1, 1, 1], id="no bias"),
        pytest.param(2, True, [1] * 30, id="more points than features"),
        pytest.param(1, True, [1, 0, 1, 1, 0], id="masked points"),
        pytest.param(2, False, [0, 1, 0], id="all at once"),
        pytest.param(1, True, [1], id="one point"),
    ],
)


def make_problem(num_outputs: int = 1, bias: bool = True) -> Problem:
    """A random prior over the head of a small network whose features come from a code."""
    generator = torch.Generator().manual_seed(0)
    module = MLP(2, num_outputs, hidden=(6, 4))
    module.head = nn.Linear(4, num_outputs, bias=bias)
    network = BaseNetwork(module.double(), adapted="head", conditional="rest")

    def normal(size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    prior = GaussianPrior(normal(network.num_adapted), 0.5 * normal(network.num_adapted))
    generated = GeneratedPrior(prior, normal(network.num_conditional), torch.tensor([-0.3]).double())
    return Problem(network, Gaussian(0.8).double(), generated)


def make_support(num_outputs: int, present: list[int]) -> Support:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(len(present), n, generator=generator, dtype=torch.float64) for n in (2, num_outputs))
    return Support(x, y, torch.tensor(present).bool())


def textbook(problem: Problem, support: Support) -> tuple[Tensor, Tensor, Tensor]:
    """Design matrix of the points that exist; posterior means (O, F) and covariances (O, F, F) of the weights."""
    mean, variance, noise = head_prior(problem)
    phi, y = design(problem, support.x[support.mask]), support.y[support.mask]
    precision = torch.diag_embed(1 / variance) + phi.T @ phi / noise
    covariance = torch.linalg.inv(precision)
    weights = covariance @ (mean / variance + y.T @ phi / noise)[..., None]
    return phi, weights[..., 0], covariance


def head_prior(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances (O, F) of the weights, the bias last, and the noise variance."""
    num_outputs, num_features = problem.network.adapted_shapes["head.weight"]
    prior = problem.generated.adapted

    def columns(flat: Tensor) -> Tensor:
        weight, bias = flat[: num_outputs * num_features], flat[num_outputs * num_features :]
        return torch.cat([weight.view(num_outputs, -1), bias.view(num_outputs, -1)], dim=1)

    assert isinstance(problem.likelihood, Gaussian)
    noise = problem.likelihood.scale(problem.generated.likelihood).square()
    return columns(prior.mean), columns(prior.log_scale.exp().square()), noise


def design(problem: Problem, x: Tensor) -> Tensor:
    features = problem.network.features(problem.generated.conditional, x)
    has_bias = "head.bias" in problem.network.adapted_shapes
    return torch.cat([features, torch.ones(len(x), int(has_bias), dtype=x.dtype)], dim=1)


@CASES
def test_evidence_is_the_multivariate_normal_density_of_the_support_targets(num_outputs, bias, present):
    problem, support = make_problem(num_outputs, bias), make_support(num_outputs, present)
    mean, variance, noise = head_prior(problem)
    phi, y = design(problem, support.x[support.mask]), support.y[support.mask]
    covariance = phi @ torch.diag_embed(variance) @ phi.T + noise * torch.eye(len(y)).double()
    expected = MultivariateNormal(mean @ phi.T, covariance).log_prob(y.T).sum()
    torch.testing.assert_close(Conjugate().adapt(problem, support, None).log_evidence, expected)


@CASES
def test_predictive_is_that_of_the_textbook_posterior_over_the_weights(num_outputs, bias, present):
    problem, support = make_problem(num_outputs, bias), make_support(num_outputs, present)
    x = torch.linspace(-2, 2, 14).double().view(7, 2)
    prediction, variance = Conjugate().predict(problem, Conjugate().adapt(problem, support, None), x)
    _, weights, covariance = textbook(problem, support)
    phi = design(problem, x)
    torch.testing.assert_close(prediction, (phi @ weights.T)[None])
    torch.testing.assert_close(variance, torch.einsum("qf,ofg,qg->qo", phi, covariance, phi)[None])


@CASES
@pytest.mark.parametrize("gram_dtype", [torch.float64, torch.float32], ids=str)
def test_answering_at_once_is_adapting_and_then_predicting_in_values_and_gradients(
    num_outputs, bias, present, gram_dtype
):
    problem, support = make_problem(num_outputs, bias), make_support(num_outputs, present)
    x = torch.linspace(-2, 2, 14).double().view(7, 2)
    inference = Conjugate(gram_dtype)
    leaves = [*problem.generated.adapted, *problem.generated[1:]]
    for leaf in leaves:
        leaf.requires_grad_()
    expected = adapt_then_predict(inference, problem, support, None, x)
    answer = inference.adapt_and_predict(problem, support, None, x)
    tolerance = 1e-9 if gram_dtype == torch.float64 else 2e-2
    torch.testing.assert_close(answer, expected, rtol=tolerance, atol=tolerance)

    def gradients(answer: Answer) -> tuple[Tensor, ...]:
        return torch.autograd.grad(answer.log_evidence + sum(leaf.cos().sum() for leaf in answer.components), leaves)

    torch.testing.assert_close(gradients(answer), gradients(expected), rtol=tolerance, atol=tolerance)


def test_evidence_is_the_product_of_one_step_ahead_predictives():
    problem, support = make_problem(), make_support(1, [1] * 6)
    total = torch.zeros((), dtype=torch.float64)
    for seen in range(6):
        posterior = Conjugate().adapt(problem, Support(*(leaf[:seen] for leaf in support)), None)
        prediction, variance = Conjugate().predict(problem, posterior, support.x[seen : seen + 1])
        scale = (variance + head_prior(problem)[2]).sqrt()
        total = total + Normal(prediction[0], scale[0]).log_prob(support.y[seen : seen + 1]).sum()
    torch.testing.assert_close(Conjugate().adapt(problem, support, None).log_evidence, total)


@pytest.mark.parametrize("present", [[], [0, 0, 0]], ids=["empty", "all masked"])
def test_without_points_the_predictive_is_the_prior_one_and_the_evidence_is_nought(present):
    problem, support = make_problem(2), make_support(2, present)
    posterior = Conjugate().adapt(problem, support, None)
    x = torch.linspace(-2, 2, 6).double().view(3, 2)
    prediction, variance = Conjugate().predict(problem, posterior, x)
    mean, prior_variance, _ = head_prior(problem)
    phi = design(problem, x)
    assert posterior.log_evidence == 0
    torch.testing.assert_close(prediction, (phi @ mean.T)[None])
    torch.testing.assert_close(variance, (phi.square() @ prior_variance.T)[None])


def test_what_stands_in_masked_places_changes_nothing():
    problem, support = make_problem(2), make_support(2, [1, 0, 1, 1, 0])
    x = torch.linspace(-2, 2, 6).double().view(3, 2)

    def result(support: Support) -> tuple[Tensor, ...]:
        posterior = Conjugate().adapt(problem, support, None)
        return posterior.log_evidence, *Conjugate().predict(problem, posterior, x)

    garbage = torch.where(support.mask[:, None], 0.0, 1e6).double()
    unpadded = result(Support(*(leaf[support.mask] for leaf in support)))
    for changed in (support, Support(support.x + garbage, support.y - garbage, support.mask)):
        torch.testing.assert_close(result(changed), unpadded, rtol=1e-13, atol=1e-13)


def test_evidence_has_the_gradient_of_finite_differences_in_prior_features_and_noise():
    problem, support = make_problem(2), make_support(2, [1, 0, 1, 1])
    mean, log_scale = problem.generated.adapted

    def outputs(mean: Tensor, log_scale: Tensor, conditional: Tensor, offset: Tensor) -> tuple[Tensor, ...]:
        changed = problem._replace(generated=GeneratedPrior(GaussianPrior(mean, log_scale), conditional, offset))
        posterior = Conjugate().adapt(changed, support, None)
        return posterior.log_evidence, *Conjugate().predict(changed, posterior, support.x)

    leaves = (mean, log_scale, problem.generated.conditional, problem.generated.likelihood)
    assert torch.autograd.gradcheck(outputs, tuple(leaf.clone().requires_grad_() for leaf in leaves))


def test_single_precision_with_a_nearly_singular_gram_matrix_agrees_with_double():
    """Twelve almost coincident points, noise a thousandth of the prior's scale: this kills single precision."""
    x = torch.linspace(0, 1e-4, 24).double().view(12, 2)
    support = Support(x, x.sum(-1, keepdim=True), torch.ones(12).bool())
    problem = make_problem()
    problem = problem._replace(generated=problem.generated._replace(likelihood=torch.tensor([math.log(1e-3)]).double()))
    expected = Conjugate().adapt(problem, support, None).log_evidence
    generated = GeneratedPrior(
        GaussianPrior(*(leaf.float() for leaf in problem.generated.adapted)),
        *(leaf.float() for leaf in problem.generated[1:]),
    )
    single = Problem(problem.network.float(), Gaussian(0.8), generated)
    evidence = Conjugate().adapt(single, Support(support.x.float(), support.y.float(), support.mask), None).log_evidence
    assert evidence.dtype == torch.float32
    assert evidence.item() == pytest.approx(expected.item(), rel=1e-4)


def test_classes_are_refused_with_the_methods_that_take_them():
    with pytest.raises(ValueError, match=r"not Categorical: use GradientDescent or SVGD for classes"):
        Conjugate().check(BaseNetwork(MLP(2, 3), adapted="head"), Categorical(3))


@pytest.mark.parametrize(
    ("module", "adapted"),
    [(MLP(2, 1), "all"), (MLP(2, 1), r"head\.weight$"), (MLP(2, 1), r"^layers\.0"), (nn.Linear(2, 1), "all")],
)
def test_anything_but_a_whole_linear_head_is_refused_with_the_remedy(module, adapted):
    with pytest.raises(ValueError, match=r'adapts a linear head, not .*weight.*BaseNetwork\(module, adapted="head"\)'):
        Conjugate().check(BaseNetwork(module, adapted=adapted), Gaussian())


def test_targets_that_do_not_fit_the_outputs_are_refused():
    with pytest.raises(ValueError, match=r"the model has 2 outputs and a point has 1 targets: make them equal"):
        Conjugate().adapt(make_problem(2), make_support(1, [1, 1]), None)
