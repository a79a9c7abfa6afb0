"""Mode-Conditional Bayesian MAML from Python, without Ray or a command line: classification, then regression.

Run it with `python examples/quickstart.py`; it takes some seconds.
"""

import torch
from torch import nn

from mcb import (
    MLP,
    BaseNetwork,
    Categorical,
    Codebook,
    Conjugate,
    DeepSet,
    Gaussian,
    GradientDescent,
    ModeConditionalBayesianMAML,
    PriorHypernetwork,
    Task,
)
from mcb.predictive import CategoricalMixture, GaussianMixture
from mcb.tasks.regression import RegressionFamilies


def random_classification_tasks(num_tasks: int, num_classes: int = 5, num_inputs: int = 10) -> Task:
    """Tasks of one support and one query point a class: classes are Gaussian clouds around centres drawn per task."""
    centres = 2 * torch.randn(num_tasks, num_classes, num_inputs)
    labels = torch.arange(num_classes).expand(num_tasks, -1)
    there = torch.ones(num_tasks, num_classes, dtype=torch.bool)

    def points() -> torch.Tensor:
        return centres + torch.randn_like(centres)

    return Task(points(), labels, there, points(), labels, there, torch.full((num_tasks,), -1))


def classification() -> ModeConditionalBayesianMAML:
    """A `Linear(10, 5)` classifier, 100 random 5-way tasks, cross-entropy; returns the trained learner."""
    model = BaseNetwork(nn.Linear(10, 5))
    learner = ModeConditionalBayesianMAML(
        task_encoder=DeepSet(x_size=10, y_size=5, embedding_size=32),
        prior_hypernetwork=PriorHypernetwork(32, model, init_scale=0.1),
        model=model,
        inference=GradientDescent(num_steps=3, step_size=0.5, num_particles=5),
        likelihood=Categorical(num_classes=5),
    )
    tasks = random_classification_tasks(100)
    batches = [Task(*(leaf[start : start + 25] for leaf in tasks)) for start in range(0, 100, 25)]
    history = learner.meta_train(batches * 50, torch.optim.Adam(learner.parameters(), lr=3e-3))
    print(f"classification: cross-entropy {history[0]:.3f} -> {history[-1]:.3f} nats (chance: 1.609)")

    new = Task(*(leaf[0] for leaf in random_classification_tasks(1)))
    predictive = learner.adapt(new.support_x, new.support_y).predict(new.query_x)
    assert isinstance(predictive, CategoricalMixture)
    print("a new task's class probabilities, one row a query point (the diagonal is right):")
    print(predictive.probabilities().numpy().round(2))
    return learner


def regression() -> ModeConditionalBayesianMAML:
    """Sinusoids and lines: which of the two is found from five points; returns the trained learner."""
    model = BaseNetwork(MLP(1, 1, hidden=(32, 32, 16)), adapted="head", conditional="rest")
    learner = ModeConditionalBayesianMAML(
        task_encoder=None,
        prior_hypernetwork=PriorHypernetwork(16, model, num_offsets=1),
        model=model,
        modes=Codebook(num_modes=4, code_size=16),
        inference=Conjugate(),
        likelihood=Gaussian(init_scale=0.5),
    )
    source = RegressionFamilies.two_modes()
    batches = (source.sample(0, torch.arange(50) + 50 * step) for step in range(200))
    history = learner.meta_train(batches, torch.optim.Adam(learner.parameters(), lr=5e-3))
    print(f"regression: {history[0]:.3f} -> {history[-1]:.3f} nats per query point (Bayes-optimal: 0.437)")

    task = Task(*(leaf[0] for leaf in source.sample(1, torch.tensor([0]))))
    adapted = learner.adapt(task.support_x, task.support_y)
    predictive = adapted.predict(task.query_x)
    assert isinstance(predictive, GaussianMixture)
    low, high = predictive.interval(0.9)
    print("responsibilities of the modes:", adapted.responsibilities.numpy().round(2))
    columns = torch.cat([task.query_x, task.query_y, predictive.expectation(), low, high], dim=1)
    print("     x      y   mean   90 % interval")
    for row in columns.tolist():
        print("".join(f"{value:7.2f}" for value in row))
    return learner


if __name__ == "__main__":
    torch.manual_seed(0)
    classification()
    regression()
