from itertools import permutations

import numpy as np
import pytest

from cluster.buffer import GradientBuffer
from cluster.errors import UserError
from cluster.shards import ShardReport, plan

SHARDS = plan(version=2, num_tasks=12, num_shards=4)


def reports() -> list[ShardReport]:
    """Gradients of such different sizes that a sum in another order rounds differently."""
    draws = np.random.default_rng(0).standard_normal((4, 50))
    scales = np.array([1e4, 1.0, 1e-3, 1e4])[:, None]
    gradients = (draws * scales).astype(np.float32)
    return [ShardReport(s, g, {"nll": 0.1 * (s.index + 1)}, 1.0) for s, g in zip(SHARDS, gradients, strict=True)]


def test_the_sum_has_the_same_bits_in_every_order_of_arrival():
    first, second, third, fourth = (report.gradient for report in reports())
    expected = ((first + second) + third) + fourth
    assert (((fourth + third) + second) + first).tobytes() != expected.tobytes()
    for order in permutations(reports()):
        buffer = GradientBuffer(SHARDS, 50)
        for number, report in enumerate(order):
            assert not buffer.is_complete, number
            assert buffer.add(report)
        assert buffer.is_complete
        assert buffer.gradient.tobytes() == expected.tobytes()
        assert buffer.statistics["nll"] == ((0.1 + 0.1 * 2) + 0.1 * 3) + 0.1 * 4


@pytest.mark.parametrize("order", [(0, 0, 1, 2, 1, 3), (3, 3, 2, 0, 2, 1, 3)])
def test_a_shard_reported_twice_counts_once(order: tuple[int, ...]):
    once, twice = GradientBuffer(SHARDS, 50), GradientBuffer(SHARDS, 50)
    for index in range(4):
        once.add(reports()[index])
    taken = [twice.add(reports()[index]) for index in order]
    assert sum(taken) == 4
    assert twice.gradient.tobytes() == once.gradient.tobytes() and twice.statistics == once.statistics


def test_it_keeps_no_hold_of_the_reports_arrays():
    buffer = GradientBuffer(SHARDS, 50)
    report = reports()[0]
    buffer.add(report)
    report.gradient[:] = 0
    assert (buffer.gradient != 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_shard_that_is_not_finite_is_named(bad: float):
    buffer = GradientBuffer(SHARDS, 50)
    for report in reversed(reports()):
        if report.shard.index in (1, 2):
            report.gradient[7] = bad
        buffer.add(report)
    assert buffer.not_finite == SHARDS[1]


def test_a_report_of_another_step_or_length_is_refused():
    buffer = GradientBuffer(SHARDS, 50)
    other = plan(version=3, num_tasks=12, num_shards=4)[0]
    with pytest.raises(UserError, match="not a shard of this meta-step"):
        buffer.add(ShardReport(other, np.zeros(50, np.float32), {}, 0.0))
    with pytest.raises(UserError, match="does not fit"):
        buffer.add(ShardReport(SHARDS[0], np.zeros(49, np.float32), {}, 0.0))
