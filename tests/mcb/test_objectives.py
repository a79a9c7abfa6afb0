"""Meta-objectives against sums written out by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from mcb.objectives import EvidenceRegularized, Prediction, masked_mean, predictive_nll
from mcb.predictive import CategoricalMixture, GaussianMixture
from mcb.types import Task

NUM_TASKS, NUM_MODES, NUM_QUERY = 3, 2, 4
QUERY_MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]]).bool()
SUPPORT_MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_tasks() -> Task:
    support, query = draws(NUM_TASKS, 3, 1), draws(NUM_TASKS, NUM_QUERY, 1, seed=1)
    return Task(support, support, SUPPORT_MASK, query, query, QUERY_MASK, torch.zeros(NUM_TASKS).long())


def make_prediction() -> Prediction:
    log_gate, log_evidence = draws(NUM_TASKS, NUM_MODES, seed=2).log_softmax(-1), draws(NUM_TASKS, NUM_MODES, seed=3)
    joint = log_gate + log_evidence
    mean = draws(NUM_TASKS, NUM_MODES, NUM_QUERY, 1, seed=4)
    mixture = GaussianMixture(joint.log_softmax(-1), mean, 0.1 * mean)
    return Prediction(mixture, joint.log_softmax(-1), log_evidence, joint.logsumexp(-1))


def nll_by_hand(prediction: Prediction, tasks: Task, task: int) -> float:
    assert isinstance(prediction.predictive, GaussianMixture)
    _, mean, log_scale = prediction.predictive
    losses = []
    for query in range(NUM_QUERY):
        if QUERY_MASK[task, query]:
            density = 0.0
            for mode in range(NUM_MODES):
                component = Normal(mean[task, mode, query, 0], log_scale[task, mode, query, 0].exp())
                likelihood = component.log_prob(tasks.query_y[task, query, 0]).exp().item()
                density += prediction.responsibilities[task, mode].item() * likelihood
            losses.append(-math.log(density))
    return sum(losses) / len(losses)


def test_predictive_nll_is_the_mean_over_existing_query_points_of_the_mixtures():
    prediction, tasks = make_prediction(), make_tasks()
    expected = torch.tensor([nll_by_hand(prediction, tasks, task) for task in range(NUM_TASKS)]).double()
    torch.testing.assert_close(predictive_nll(prediction, tasks), expected)


def test_cross_entropy_is_the_predictive_nll_of_classes():
    logits, y = draws(NUM_TASKS, 1, NUM_QUERY, 5), torch.randint(5, (NUM_TASKS, NUM_QUERY))
    one = torch.zeros(NUM_TASKS, 1).double()
    prediction = make_prediction()._replace(predictive=CategoricalMixture(one, logits))
    tasks = make_tasks()._replace(query_y=y, query_mask=torch.ones(NUM_TASKS, NUM_QUERY).bool())
    expected = torch.stack([torch.nn.functional.cross_entropy(logits[t, 0], y[t]) for t in range(NUM_TASKS)])
    torch.testing.assert_close(predictive_nll(prediction, tasks), expected)


def test_evidence_regularized_subtracts_the_log_marginal_per_support_point():
    prediction, tasks = make_prediction(), make_tasks()
    expected = predictive_nll(prediction, tasks) - 0.3 * prediction.log_marginal / torch.tensor([3.0, 1.0, 1.0])
    torch.testing.assert_close(EvidenceRegularized(0.3)(prediction, tasks), expected)
    assert torch.equal(EvidenceRegularized(0.0)(prediction, tasks), predictive_nll(prediction, tasks))


def test_responsibilities_are_probabilities():
    torch.testing.assert_close(make_prediction().responsibilities.sum(-1), torch.ones(NUM_TASKS).double())


def test_masked_mean_skips_what_does_not_exist_and_its_gradient_too():
    values = draws(NUM_TASKS, NUM_QUERY)
    values[~QUERY_MASK] = math.inf
    values.requires_grad_()
    expected = torch.stack([values[task, QUERY_MASK[task]].mean() for task in range(NUM_TASKS)])
    torch.testing.assert_close(masked_mean(values, QUERY_MASK), expected)
    masked_mean(values, QUERY_MASK).sum().backward()
    torch.testing.assert_close(values.grad, QUERY_MASK / QUERY_MASK.sum(-1, keepdim=True).double())


def test_masked_mean_of_nothing_is_nought():
    assert masked_mean(draws(2, 3), torch.zeros(2, 3).bool()).tolist() == [0, 0]


@pytest.mark.parametrize("weight", [-0.1, math.nan])
def test_a_negative_weight_is_refused(weight):
    with pytest.raises(ValueError, match=rf"weight={weight} must be at least 0"):
        EvidenceRegularized(weight)
