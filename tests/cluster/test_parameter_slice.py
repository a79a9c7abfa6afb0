"""Slices, however many, are one vector: the same bits, norms and checkpoints; and the average, the wire, the blocks."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from cluster.blocks import norm, slice_bounds, squared_sums
from cluster.errors import UserError
from cluster.optimizer_plan import OptimizerPlan
from cluster.parameter_slice import ParameterSlice
from cluster.shards import GradientKey
from cluster.slice_state import SliceState, cut, join
from cluster.update import Update
from cluster.wire import decode, encode

SIZE = 1000
ELEMENTWISE = [
    OptimizerPlan("adam", 0.05, warmup=2, clip_norm=20.0, average_decay=0.8),
    OptimizerPlan("adamw", 0.05, weight_decay=0.1, betas=(0.8, 0.95), epsilon=1e-6),
    OptimizerPlan("sgd", 0.05, momentum=0.9, clip_norm=1.0),
    OptimizerPlan("rmsprop", 0.01, momentum=0.5),
    OptimizerPlan("adagrad", 0.05),
    OptimizerPlan("adadelta", 0.5),
    OptimizerPlan("adamax", 0.05),
    OptimizerPlan("nadam", 0.05),
    OptimizerPlan("radam", 0.05),
    OptimizerPlan("asgd", 0.05),
    OptimizerPlan("rprop", 0.05),
]


def beginning() -> SliceState:
    return SliceState(np.linspace(-1, 1, SIZE, dtype=np.float32), {}, None)


def gradient(number: int, index: int) -> np.ndarray:
    return np.random.default_rng([number, index]).standard_normal(SIZE).astype(np.float32)


def updates(plan: OptimizerPlan, num_slices: int, start: SliceState, numbers: range) -> tuple[SliceState, list[float]]:
    """The state after these updates, each of two gradients, in so many slices; and the norms."""
    bounds = slice_bounds(SIZE, num_slices)
    slices = [ParameterSlice(plan, 20, "float32", state) for state in cut(start, bounds)]
    norms = []
    for number in numbers:
        keys = tuple(GradientKey(number, index, number) for index in range(2))
        update = Update(number, number, keys, 1.0, ())
        for key in keys:
            for one, (low, high) in zip(slices, pairwise(bounds), strict=True):
                one.push(key, gradient(number, key.index)[low:high])
        norms.append(update.norm(np.concatenate([one.sum(update).squared_sums for one in slices])))
        for one in slices:
            one.move(update, norms[-1])
    return join([one.state() for one in slices]), norms


def require_same(one: SliceState, other: SliceState) -> None:
    assert one.parameters.tobytes() == other.parameters.tobytes()
    assert (one.average is None) == (other.average is None)
    if one.average is not None and other.average is not None:
        assert one.average.tobytes() == other.average.tobytes()
    torch.testing.assert_close(one.optimizer_state, other.optimizer_state, rtol=0, atol=0)


@pytest.mark.parametrize("plan", ELEMENTWISE, ids=lambda plan: plan.name)
def test_any_number_of_slices_gives_the_bits_of_one(plan: OptimizerPlan):
    whole, norms = updates(plan, 1, beginning(), range(6))
    for num_slices in (2, 3, 16):
        state, theirs = updates(plan, num_slices, beginning(), range(6))
        require_same(state, whole)
        assert theirs == norms


@pytest.mark.parametrize("plan", ELEMENTWISE, ids=lambda plan: plan.name)
def test_a_state_of_three_slices_is_continued_by_one_or_five(plan: OptimizerPlan):
    whole, _ = updates(plan, 1, beginning(), range(6))
    half, _ = updates(plan, 3, beginning(), range(3))
    for num_slices in (1, 5):
        require_same(updates(plan, num_slices, half, range(3, 6))[0], whole)


def test_the_average_forgets_by_its_decay_and_the_beginning_soon():
    plan = OptimizerPlan("sgd", 0.1, "constant", average_decay=0.5)
    expected, state = beginning().parameters.astype(np.float64), beginning()
    for number in range(8):
        state, _ = updates(plan, 2, state, range(number, number + 1))
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * state.parameters
    assert state.average is not None
    np.testing.assert_allclose(state.average, expected, rtol=1e-5, atol=1e-6)


def test_an_update_that_is_not_finite_moves_nothing_and_the_next_one_does():
    one = ParameterSlice(ELEMENTWISE[0], 20, "float32", beginning())
    bad = gradient(0, 0)
    bad[700] = np.inf
    keys = tuple(GradientKey(0, index, 0) for index in range(2))
    one.push(keys[0], gradient(0, 1))
    one.push(keys[1], bad)
    made = one.make(Update(0, 0, keys, 1.0, ()))
    assert made.norm == np.inf and made.not_finite == 1
    require_same(one.state(), replaced_average(beginning()))
    one.push(GradientKey(1, 0, 1), gradient(0, 1))
    assert one.make(Update(1, 1, (GradientKey(1, 0, 1),), 1.0, ())).norm == norm(squared_sums(gradient(0, 1)))


def replaced_average(state: SliceState) -> SliceState:
    fresh = ParameterSlice(ELEMENTWISE[0], 20, "float32", state).state()
    return SliceState(state.parameters, fresh.optimizer_state, state.parameters)


def test_bounds_lie_on_blocks_and_slices_are_of_even_size():
    assert slice_bounds(1000, 3) == (0, 320, 640, 1000)
    assert slice_bounds(83, 2) == (0, 64, 83)
    assert slice_bounds(0, 1) == (0, 0)
    with pytest.raises(UserError, match=r"num_slices=17 must lie in 1..16"):
        slice_bounds(1000, 17)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, 2**20, 2**20 + 1])
def test_squared_sums_of_the_parts_are_those_of_the_whole(size: int):
    vector = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    bounds = slice_bounds(size, min(3, -(-size // 64)))
    parts = [squared_sums(vector[low:high]) for low, high in pairwise(bounds)]
    assert np.concatenate(parts).tobytes() == squared_sums(vector).tobytes()
    np.testing.assert_allclose(norm(squared_sums(vector)), np.linalg.norm(vector.astype(np.float64)), rtol=1e-12)


def test_bfloat16_is_torchs_for_every_pattern_of_the_upper_bits():
    upper = np.arange(2**16, dtype=np.uint32) << 16
    for lower in (0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        vector = (upper | np.uint32(lower)).view(np.float32)
        with np.errstate(over="ignore"):
            travelled = encode(vector, "bfloat16")
        expected = torch.from_numpy(vector).bfloat16().float().numpy()
        np.testing.assert_array_equal(decode(travelled), expected)
        assert travelled.nbytes * 2 == vector.nbytes


def test_float32_travels_as_it_is():
    vector = gradient(0, 0)
    assert decode(encode(vector, "float32")) is vector


def test_published_parameters_are_rounded_and_the_servers_own_are_not():
    one = ParameterSlice(replace(ELEMENTWISE[2], clip_norm=None), 20, "bfloat16", beginning())
    exact = one.parameters
    np.testing.assert_array_equal(decode(one.published), torch.tensor(exact).bfloat16().float().numpy())
    assert one.published.dtype == np.uint16 and (decode(one.published) != exact).any()


def test_gradients_that_were_never_reported_are_forgotten_with_their_shard_or_their_age():
    one = ParameterSlice(ELEMENTWISE[0], 20, "float32", beginning())
    served, later, old, passed, kept = (
        GradientKey(*key) for key in ((3, 0, 2), (3, 0, 3), (5, 1, 1), (2, 1, 2), (4, 0, 2))
    )
    for key in (served, later, old, passed, kept):
        one.push(key, gradient(0, 0))
    one.sum(Update(3, 3, (served,), 1.0, (), oldest_base=2, front=3))
    assert one.waiting == (kept,)
