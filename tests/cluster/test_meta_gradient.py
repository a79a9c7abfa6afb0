import numpy as np
import pytest
import torch
from fake_learner import FakeLearner, FakeSource
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from cluster.denormals import flushed_denormals
from cluster.errors import UserError
from cluster.gradient import FlatParameters, MetaGradient, initial_parameters, parameter_shapes
from cluster.shards import plan
from mcb.randomness import fold_key
from mcb.types import Task


def double_gradient(seed: int) -> tuple[MetaGradient, FakeLearner]:
    learner = FakeLearner().double()
    return MetaGradient(learner, FakeSource(), seed), learner


def test_shards_add_up_to_the_gradient_of_the_mean_loss():
    compute, learner = double_gradient(5)
    parameters = initial_parameters(learner) + np.float32(0.25)
    total = sum(compute(parameters, shard).gradient.astype(np.float64) for shard in plan(3, 10, 4))
    whole = FakeLearner()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(parameters), whole.parameters())
    indices = torch.arange(30, 40)
    tasks = FakeSource().sample(fold_key(5, "train"), indices)
    whole.losses(tasks, whole.noise(fold_key(5, "noise"), indices)).loss.mean().backward()
    expected = parameters_to_vector([p.grad if p.grad is not None else torch.zeros_like(p) for p in whole.parameters()])
    np.testing.assert_allclose(total, expected.numpy(), atol=1e-6)
    assert (expected[:60].abs() > 0).any()


def test_a_gradient_is_a_function_of_parameters_and_shard_alone():
    compute, learner = double_gradient(0)
    parameters = initial_parameters(learner)
    parameters.flags.writeable = False
    first, other = plan(0, 10, 2)
    once = compute(parameters, first).gradient
    compute(parameters + 1, other)
    again = compute(parameters, first).gradient
    assert once.tobytes() == again.tobytes() and once.dtype == np.float32
    assert once is not again


def test_statistics_are_sums_over_the_shards_tasks_and_their_modes():
    compute, learner = double_gradient(0)
    shard = plan(0, 10, 2)[0]
    sums = compute(initial_parameters(learner), shard).statistics
    assert sums["count/line"] == 3 and sums["count/parabola"] == 2
    np.testing.assert_allclose(sums["nll/line"] + sums["nll/parabola"], sums["nll"], rtol=1e-12)
    np.testing.assert_allclose(sums["squared_error"], 2 * sums["nll"], rtol=1e-12)
    indices = torch.arange(shard.start, shard.stop)
    noise = learner.noise(fold_key(0, "noise"), indices)
    losses = learner.losses(FakeSource().sample(fold_key(0, "train"), indices), noise)
    np.testing.assert_allclose(sums["loss"], losses.loss.sum().item(), rtol=1e-12)


class Broken(FakeSource):
    """Task 13 has a value that is not finite."""

    def __init__(self, value: float) -> None:
        self.value = value

    def sample(self, seed: int, indices: Tensor) -> Task:
        tasks = super().sample(seed, indices)
        query_y = torch.where(indices[:, None, None] == 13, self.value, tasks.query_y)
        return tasks._replace(query_y=query_y)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_data_that_are_not_finite_are_refused_naming_the_task(value: float):
    learner = FakeLearner()
    compute = MetaGradient(learner, Broken(value), 0)
    first, second = plan(1, 8, 2)
    compute(initial_parameters(learner), first)
    with pytest.raises(UserError, match="task 13 of the training stream has a value in query_y that is not finite"):
        compute(initial_parameters(learner), second)


def test_parameters_survive_the_flat_vector_and_back():
    learner = FakeLearner()
    vector = initial_parameters(learner)
    assert len(vector) == sum(int(np.prod(shape)) for shape in parameter_shapes(learner).values())
    changed = vector + np.float32(1)
    FlatParameters(learner).write(changed)
    np.testing.assert_array_equal(initial_parameters(learner), changed)
    np.testing.assert_array_equal(parameters_to_vector(learner.parameters()).detach(), changed)
    with pytest.raises(UserError, match="does not fit"):
        FlatParameters(learner).write(vector[1:])


def test_denormals_are_flushed_inside_the_block_alone():
    smallest = torch.tensor([1e-38])
    with flushed_denormals():
        assert (smallest * 0.5).item() == 0
    assert (smallest * 0.5).item() > 0
