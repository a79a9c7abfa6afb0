"""The learner as a user meets it: gradients, noise, training, adapting to one task, and what it refuses."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from small_learners import NUM_TASKS, draws, make_learner, make_tasks, meta_gradient
from torch import Tensor, nn

from mcb.hypernetwork import PriorHypernetwork
from mcb.inference.conjugate import Conjugate
from mcb.inference.gradient import GradientDescent
from mcb.learner import ModeConditionalBayesianMAML
from mcb.likelihoods import Categorical
from mcb.modes.codebook import Codebook
from mcb.modes.single import Single
from mcb.networks.functional import BaseNetwork
from mcb.networks.mlp import MLP
from mcb.objectives import EvidenceRegularized
from mcb.predictive import CategoricalMixture, GaussianMixture
from mcb.randomness import fold_key
from mcb.types import Task

INDICES = torch.arange(NUM_TASKS)


def directional_difference(
    function: Callable[[], Tensor], values: Sequence[Tensor], directions: Sequence[Tensor]
) -> Tensor:
    """Slope of `function` as `values` move along `directions`, by central differences of sixth-digit steps."""
    ends = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for value, direction in zip(values, directions, strict=True):
                value += step * direction
            ends.append(function())
        for value, direction in zip(values, directions, strict=True):
            value += 1e-6 * direction
    return (ends[0] - ends[1]) / 2e-6


@pytest.mark.parametrize(
    ("modes", "inference", "kind"),
    [
        ("embedding", "conjugate", "mlp"),
        ("embedding", "gradient", "mlp"),
        ("embedding", "maml", "images"),
        ("embedding", "gradient", "images"),
        ("codebook, both", "gradient", "classes"),
        ("codebook, encoder", "conjugate", "images"),
    ],
)
def test_meta_gradient_of_each_part_is_that_of_finite_differences(modes, inference, kind):
    learner, tasks = make_learner(modes, inference, kind), make_tasks(kind)
    noise = learner.noise(0, INDICES)
    parts: dict[str, list[Tensor]] = {name: list(part.parameters()) for name, part in learner.named_children()}
    if noise is not None:
        parts["noise"] = [noise.requires_grad_()]
    assert parts["task_encoder"] and parts["prior_hypernetwork"] and parts["model"]

    def loss() -> Tensor:
        return learner.losses(tasks, noise).loss.sum()

    for name, values in parts.items():
        if values:
            directions = [draws(*value.shape, seed=index) for index, value in enumerate(values)]
            slope = sum(
                ((g * d).sum() for g, d in zip(torch.autograd.grad(loss(), values), directions, strict=True)),
                torch.zeros(()),
            )
            expected = directional_difference(loss, values, directions)
            assert slope.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-8), name
            assert abs(expected) > 1e-6, name


@pytest.mark.parametrize("inference", ["conjugate", "gradient", "first order", "svgd"])
def test_the_meta_gradient_reaches_every_part_and_the_priors_width(inference):
    learner, tasks = make_learner("embedding", inference), make_tasks()
    learner.losses(tasks, learner.noise(0, INDICES)).loss.sum().backward()
    for name, parameter in learner.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    hypernetwork = learner.prior_hypernetwork
    assert isinstance(hypernetwork, PriorHypernetwork) and hypernetwork.output.weight.grad is not None
    mean, log_scale, *_ = hypernetwork.output.weight.grad.split(hypernetwork.sizes)
    assert mean.all(-1).all() and log_scale.all(-1).all()


def test_noise_is_a_pure_function_of_key_and_index():
    learner = make_learner(inference="gradient")
    noise = learner.noise(5, torch.tensor([4, 0, 9]))
    assert noise is not None and noise.shape == (3, 3, learner.model.num_adapted) and noise.dtype == torch.float64
    for row, index in zip(noise, (4, 0, 9), strict=True):
        alone = learner.noise(5, torch.tensor([index]))
        assert alone is not None and torch.equal(alone[0], row)
    other = learner.noise(6, torch.tensor([4, 0, 9]))
    assert other is not None and not (noise == other).any()
    assert len(noise.unique()) == noise.numel()
    assert make_learner(inference="conjugate").noise(5, INDICES) is None
    assert make_learner(inference="maml").noise(5, INDICES) is None


@pytest.mark.parametrize(
    ("modes", "inference", "kind"),
    [
        ("codebook, both", "conjugate", "mlp"),
        ("embedding", "svgd", "mlp"),
        ("oracle", "maml", "mlp"),
        ("embedding", "gradient", "classes"),
    ],
)
def test_adapt_and_predict_is_meta_test_is_the_batch_of_one(modes, inference, kind):
    learner = make_learner(modes, inference, kind)
    task = Task(*(leaf[0] for leaf in make_tasks(kind)))
    adapted = learner.adapt(task.support_x, task.support_y, mode=int(task.mode), seed=3)
    tested = learner.meta_test(task, seed=3)
    torch.testing.assert_close(adapted.predict(task.query_x), tested)
    torch.testing.assert_close(adapted.responsibilities.sum(), torch.tensor(1.0).double())
    assert isinstance(tested, CategoricalMixture if kind == "classes" else GaussianMixture)
    assert not any(leaf.requires_grad for leaf in tested)
    if inference in ("gradient", "svgd"):
        again, other = (learner.meta_test(task, seed=seed) for seed in (3, 4))
        assert torch.equal(again[1], tested[1]) and not torch.equal(other[1], tested[1])


def test_predictions_come_one_by_one_or_together():
    learner, task = make_learner(), Task(*(leaf[0] for leaf in make_tasks()))
    adapted = learner.adapt(task.support_x, task.support_y)
    together = adapted.predict(task.query_x)
    assert isinstance(together, GaussianMixture)
    for index, x in enumerate(task.query_x):
        alone = adapted.predict(x[None])
        assert isinstance(alone, GaussianMixture)
        torch.testing.assert_close(alone.mean[:, 0], together.mean[:, index])
        torch.testing.assert_close(alone.log_scale[:, 0], together.log_scale[:, index])


def test_without_offsets_the_noise_is_shared_by_all_modes():
    torch.manual_seed(0)
    model = BaseNetwork(MLP(2, 1, hidden=(4,)), "head")
    learner = ModeConditionalBayesianMAML(
        None, PriorHypernetwork(3, model), model, modes=Codebook(2, 3), inference=Conjugate()
    ).double()
    predictive = learner.meta_test(Task(*(leaf[0] for leaf in make_tasks())))
    assert isinstance(predictive, GaussianMixture) and (predictive.log_scale > 0).all()  # the noise alone is 1


def make_batches(num_batches: int, *, classes: bool) -> list[Task]:
    """Lines through the origin with slope 2 or -2, or which side of a plane through the origin a point lies on."""
    batches = []
    for seed in range(num_batches):
        x = draws(16, 10, 2, seed=seed).float()
        mode = torch.arange(16) % 2
        normal = torch.where(mode == 0, 2.0, -2.0)[:, None] * torch.tensor([1.0, 0.5])
        height = torch.einsum("tnx,tx->tn", x, normal)
        y = (height > 0).long() if classes else height[..., None] + 0.1 * draws(16, 10, 1, seed=seed + 1000).float()
        mask = torch.ones(16, 5).bool()
        batches.append(Task(x[:, :5], y[:, :5], mask, x[:, 5:], y[:, 5:], mask, mode))
    return batches


def test_meta_training_learns_two_kinds_of_lines():
    torch.manual_seed(0)
    model = BaseNetwork(MLP(2, 1, hidden=(8,)), "head", "rest")
    hypernetwork = PriorHypernetwork(4, model, num_offsets=1, hidden=(16,))
    learner = ModeConditionalBayesianMAML(None, hypernetwork, model, modes=Codebook(2, 4), inference=Conjugate())
    batches, held_out = make_batches(80, classes=False), make_batches(81, classes=False)[-1]
    untrained = learner.losses(held_out, None)
    learner.meta_train(batches, torch.optim.Adam(learner.parameters(), lr=0.02), EvidenceRegularized(0.1))
    trained = learner.losses(held_out, None)
    assert trained.nll.mean() < untrained.nll.mean() - 1
    assert trained.squared_error.mean() < 0.25 * untrained.squared_error.mean()


def test_meta_training_classifies_by_gradient_steps():
    torch.manual_seed(0)
    model = BaseNetwork(nn.Linear(2, 2))
    learner = ModeConditionalBayesianMAML(
        None,
        PriorHypernetwork(4, model, init_scale=0.5),
        model,
        modes=Single(4),
        inference=GradientDescent(num_steps=2, step_size=0.3, num_particles=2),
        likelihood=Categorical(2),
    )
    history = learner.meta_train(make_batches(40, classes=True), torch.optim.Adam(learner.parameters(), lr=0.03))
    assert len(history) == 40 and sum(history[-10:]) / 10 < min(math.log(2), history[0]) - 0.2


def test_a_meta_step_is_the_optimizers_on_the_mean_of_the_objective():
    trained, by_hand, batch = make_learner(inference="svgd"), make_learner(inference="svgd"), make_tasks()
    objective = EvidenceRegularized(0.2)
    history = trained.meta_train([batch, batch], torch.optim.SGD(trained.parameters(), lr=0.1), objective, seed=4)
    for version, reported in enumerate(history):
        loss = objective(by_hand(batch, by_hand.noise(fold_key(4, "noise", version), INDICES)), batch).mean()
        assert loss.item() == pytest.approx(reported, rel=1e-12)
        for parameter, slope in zip(by_hand.parameters(), meta_gradient(loss, by_hand), strict=True):
            parameter.data -= 0.1 * slope
    for (name, value), other in zip(trained.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(value, other, msg=lambda m, n=name: f"{n}: {m}")
