"""A served learner beside the learner itself."""

import pytest
import torch
from small_learners import make_tasks

from mcb.hypernetwork import PriorHypernetwork
from mcb.inference.conjugate import Conjugate
from mcb.learner import ModeConditionalBayesianMAML
from mcb.modes.codebook import Codebook
from mcb.networks.functional import BaseNetwork
from mcb.networks.mlp import MLP
from mcb.predictive import GaussianMixture
from mcb.serving import ServedLearner


def twice(layer: torch.nn.Module, given: object, result: torch.Tensor) -> torch.Tensor:
    return 2 * result


class Doubled(MLP):
    """A network with features of its own."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().features(x)


@pytest.mark.parametrize("hooked", [False, True])
def test_a_network_that_does_more_than_an_mlp_is_asked_itself(hooked):
    """Neither a served learner nor the operation of layer and heads takes its layers apart."""
    torch.manual_seed(0)
    mlp = MLP(2, 1, (4, 3)) if hooked else Doubled(2, 1, (4, 3))
    if hooked:
        mlp.layers[1].register_forward_hook(twice)
    model = BaseNetwork(mlp, "head", r"^layers\.1\.")
    hypernetwork = PriorHypernetwork(3, model, num_offsets=1)
    learner = ModeConditionalBayesianMAML(
        None, hypernetwork, model, modes=Codebook(2, 3), inference=Conjugate()
    ).double()
    tasks = make_tasks()
    with torch.no_grad():
        expected = learner.predict_tasks(learner.adapt_tasks(tasks.support, tasks.mode, None), tasks.query_x)
        served = ServedLearner(learner)
        found = served.predict_tasks(served.adapt_tasks(tasks.support, tasks.mode, None), tasks.query_x)
        at_once = learner(tasks).predictive
    assert isinstance(expected, GaussianMixture)
    for mixture in (found, at_once):
        assert isinstance(mixture, GaussianMixture)
        torch.testing.assert_close(mixture.expectation(), expected.expectation(), rtol=1e-4, atol=1e-5)
