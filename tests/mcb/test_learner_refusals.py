"""What the learner refuses, in one sentence that holds the value and the remedy."""

import math

import pytest
import torch
from jaxtyping import config
from small_learners import NUM_TASKS, draws, make_learner, make_tasks
from torch import nn

from mcb.hypernetwork import PriorHypernetwork
from mcb.inference.conjugate import Conjugate
from mcb.inference.svgd import SVGD
from mcb.learner import ModeConditionalBayesianMAML
from mcb.modes.codebook import Codebook
from mcb.modes.single import Single
from mcb.networks.functional import BaseNetwork
from mcb.networks.mlp import MLP
from mcb.types import Task

X, Y, TASK = draws(5, 2), draws(5, 1), Task(*(leaf[0] for leaf in make_tasks()))
BAD = X.clone()
BAD[2, 1] = math.nan


def train_on(learner: ModeConditionalBayesianMAML, batch: Task) -> list[float]:
    return learner.meta_train([batch], torch.optim.SGD(learner.parameters(), lr=0.1))


REFUSED = {
    "conjugate with classes": (
        lambda: make_learner("single", "conjugate", "classes"),
        r"not Categorical: use GradientDescent or SVGD for classes",
    ),
    "conjugate over the whole network": (
        lambda: ModeConditionalBayesianMAML(None, nn.Identity(), MLP(2, 1), modes=Single(3), inference=Conjugate()),
        r'adapts a linear head, not layers.0.weight.*BaseNetwork\(module, adapted="head"\)',
    ),
    "embedding without encoder": (
        lambda: ModeConditionalBayesianMAML(None, nn.Identity(), MLP(2, 1)),
        r"modes=Embedding reads an embedding: give a task_encoder",
    ),
    "gate without encoder": (
        lambda: ModeConditionalBayesianMAML(None, nn.Identity(), MLP(2, 1), modes=Codebook(2, 3, "encoder", 3)),
        r"modes=Codebook reads an embedding: give a task_encoder",
    ),
    "a hypernetwork for another network": (
        lambda: ModeConditionalBayesianMAML(
            None,
            PriorHypernetwork(3, BaseNetwork(MLP(2, 1, (4,)), "head")),
            MLP(2, 1, (4,)),
            modes=Single(3),
            inference=SVGD(),
        ).adapt(X.float(), Y.float()),
        r"generates \(5, 0\) adapted and conditional .* the model has \(17, 0\): give both the same BaseNetwork",
    ),
    "no noise": (
        lambda: make_learner("single", "svgd")(make_tasks()),
        r"noise=None, but SVGD starts at samples of the prior: give learner\.noise\(key, indices\)",
    ),
    "an unknown true mode": (
        lambda: make_learner("oracle").adapt(X, Y),
        r"mode=-1 must lie in 0\.\.1: these modes have to be told",
    ),
    "a true mode out of range": (lambda: make_learner("oracle").adapt(X, Y, mode=2), r"mode=2 must lie in 0\.\.1"),
    "more inputs than targets": (
        lambda: make_learner().adapt(X, Y[:3]),
        r"has 5 inputs and 3 targets: give one target for each",
    ),
    "flat targets": (lambda: make_learner().adapt(X, Y[:, 0]), r"targets of shape \(5,\) .* give y\[:, None\]"),
    "flat targets in training": (
        lambda: train_on(make_learner(), make_tasks()._replace(support_y=draws(NUM_TASKS, 5))),
        r"targets of shape \(15,\) .* give y\[:, None\]",
    ),
    "a class out of range": (
        lambda: make_learner("embedding", "gradient", "classes").adapt(X, torch.tensor([0, 1, 2, 3, 4])),
        r"class 4 must lie in 0\.\.3",
    ),
    "not a number to adapt to": (
        lambda: make_learner().adapt(BAD, Y),
        r"row 2 of the data holds a number that is not finite",
    ),
    "an infinite target": (lambda: make_learner().adapt(X, Y / 0), r"row 0 of the data .*: remove or impute it"),
    "not a number to predict at": (lambda: make_learner().adapt(X, Y).predict(BAD), r"row 2 of the data"),
    "not a number to test": (lambda: make_learner().meta_test(TASK._replace(support_x=BAD)), r"row 2 of the data"),
    "not a number to train on": (
        lambda: train_on(make_learner(), make_tasks()._replace(query_x=torch.stack([X[:4], BAD[:4], X[:4]]))),
        r"row 1 of the data",
    ),
    "steps that diverge": (
        lambda: train_on(
            make_learner("single", "maml"), make_tasks()._replace(support_y=1e200 * draws(NUM_TASKS, 5, 1))
        ),
        r"the loss of meta-step 0 is (nan|inf): lower the step size or learning rate",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_the_remedy(call, message):
    config.update("jaxtyping_disable", True)  # as users run it: without the annotations' checks
    try:
        with pytest.raises(ValueError, match=message):
            call()
    finally:
        config.update("jaxtyping_disable", False)
