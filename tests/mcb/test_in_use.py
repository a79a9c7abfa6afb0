"""Slots that are not in use: nothing that they hold reaches a result or a gradient."""

import math

import pytest
import torch
from small_learners import INFERENCES, make_learner, make_tasks, meta_gradient
from torch import Tensor

from mcb.learner import ModeConditionalBayesianMAML
from mcb.mode_axis import ModeAxis
from mcb.modes.adaptive_codebook import AdaptiveCodebook
from mcb.modes.clustered import Clustered
from mcb.modes.codebook import Codebook
from mcb.modes.in_use import stand_in
from mcb.objectives import EvidenceRegularized
from mcb.predictive import GaussianMixture

UNDEFINED = [math.nan, math.inf, -math.inf, 1e300]


def results(learner: ModeConditionalBayesianMAML) -> list[Tensor]:
    """Losses, responsibilities, predictive moments and meta-gradient."""
    tasks = make_tasks()
    noise = learner.noise(0, torch.arange(3))
    prediction = learner(tasks, noise)
    losses = learner.losses(tasks, noise, EvidenceRegularized(0.5))
    assert isinstance(prediction.predictive, GaussianMixture)
    moments = [prediction.predictive.expectation(), prediction.predictive.quantile(0.9)]
    return [*losses, prediction.responsibilities, *moments, *meta_gradient(losses.loss.sum(), learner)]


@pytest.mark.parametrize("value", UNDEFINED)
@pytest.mark.parametrize("inference", INFERENCES)
@pytest.mark.parametrize("modes", ["adaptive codebook", "clustered, soft", "clustered, hard"])
def test_the_code_of_a_slot_that_is_not_in_use_changes_nothing(modes: str, inference: str, value: float):
    learner = make_learner(modes, inference)
    expected = results(learner)
    assert isinstance(learner.modes, AdaptiveCodebook | Clustered)
    unused = learner.modes.in_use == 0
    assert unused.any() and all(leaf.isfinite().all() for leaf in expected)
    learner.modes.table.data[unused] = value
    for found, wanted in zip(results(learner), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_the_first_code_in_use_stands_in_and_gets_no_gradient_for_it():
    codes = torch.arange(8.0).view(4, 2).requires_grad_()
    stood_in = stand_in(codes, torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert stood_in.tolist() == [[2, 3], [2, 3], [2, 3], [6, 7]]
    stood_in.sum().backward()
    assert codes.grad is not None and codes.grad.tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize("value", UNDEFINED)
def test_evidence_under_a_gate_of_minus_infinity_has_no_part_in_bayes_rule(value: float):
    axis = ModeAxis(Codebook(3, 2))
    log_gate = torch.tensor([[0.5, -math.inf, 0.2], [-math.inf, -1.0, -2.0]]).double()
    evidence = torch.tensor([[-1.0, value], [value, -4.0], [-3.0, -2.0]]).double().requires_grad_()
    weighed = axis.weigh(log_gate, evidence)
    (gradient,) = torch.autograd.grad(weighed.log_marginal.sum(), evidence)
    first, second = torch.tensor([-0.5, -2.8]).double(), torch.tensor([-5.0, -4.0]).double()
    torch.testing.assert_close(weighed.log_marginal, torch.stack([first.logsumexp(0), second.logsumexp(0)]))
    torch.testing.assert_close(weighed.log_responsibilities[0, [0, 2]], first.log_softmax(0))
    torch.testing.assert_close(weighed.log_responsibilities[1, [1, 2]], second.log_softmax(0))
    assert weighed.log_responsibilities[0, 1] == weighed.log_responsibilities[1, 0] == -math.inf
    torch.testing.assert_close(gradient, weighed.log_responsibilities.detach().exp().mT)


@pytest.mark.parametrize("value", UNDEFINED)
def test_predictions_of_no_weight_have_no_part_in_the_mixture(value: float):
    learner, tasks = make_learner("codebook, weights"), make_tasks()
    adapted = learner.adapt_tasks(tasks.support, tasks.mode, None)
    log_gate = torch.tensor([0.3, -math.inf, 0.7]).double().log_softmax(0).expand(3, -1)
    expected = learner.predict_tasks(adapted._replace(log_responsibilities=log_gate), tasks.query_x)
    generated, posterior = adapted.generated, adapted.posterior
    spoilt = generated._replace(likelihood=spoil(generated.likelihood, value))
    answer = adapted._replace(
        generated=spoilt,
        posterior=posterior._replace(weights=spoil(posterior.weights, value)),
        log_responsibilities=log_gate,
    )
    found = learner.predict_tasks(answer, tasks.query_x)
    for y in (tasks.query_y, -tasks.query_y):
        torch.testing.assert_close(found.log_density(y), expected.log_density(y))
    assert isinstance(found, GaussianMixture) and isinstance(expected, GaussianMixture)
    torch.testing.assert_close(found.expectation(), expected.expectation())


def spoil(leaf: Tensor, value: float) -> Tensor:
    """With `value` in mode 1's place."""
    leaf = leaf.clone()
    leaf[1] = value
    return leaf
