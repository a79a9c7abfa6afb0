import math
from dataclasses import astuple, replace

import numpy as np
import pytest

from cluster.cost_fit import Measured, fit, held_out_errors, relative_errors
from cluster.cost_model import Costs, Job, Load, Machines, advice, busy, exchange_s, saturation, step_s

COSTS = Costs(
    direct_call=4e-4,
    direct_byte=2e-9,
    shared_call=9e-4,
    shared_byte=5e-10,
    update_byte=3e-9,
    control_call=2e-4,
    fanout_call=6e-4,
    worker_call=7e-4,
    worker_direct_byte=1e-9,
    worker_shared_byte=8e-10,
    latency=2e-3,
    stretch=1.3,
)
NOTHING = Costs(*[0.0] * 11, stretch=1.0)
CLUSTER = Machines(None, 1.25e9)


def measured(costs: Costs, load: Load, cores: int) -> Measured:
    """What a benchmark would see if the model were true."""
    parts = busy(costs, load, Machines(None))
    return Measured(load, exchange_s(costs, load, Machines(cores)), parts.server, parts.slice, parts.worker)


POINTS = [
    measured(COSTS, Load(workers, num_bytes, slices), cores=2)
    for workers in (8, 32, 128)
    for num_bytes in (1e5, 1e6, 1e7)
    for slices in (1, 2, 4)
]


def test_the_fit_finds_the_constants_that_made_the_points():
    found = fit(POINTS, shared_cores=2)
    np.testing.assert_allclose(astuple(found), astuple(COSTS), rtol=1e-6)
    np.testing.assert_allclose(relative_errors(found, POINTS, 2), 0, atol=1e-9)


def test_an_error_is_predicted_over_measured_minus_one():
    slow = [point._replace(step_s=2 * point.step_s) for point in POINTS]
    np.testing.assert_allclose(relative_errors(COSTS, slow, 2), -0.5, rtol=1e-9)


def test_a_held_out_point_takes_no_part_in_the_fit_that_predicts_it():
    np.testing.assert_allclose(held_out_errors(POINTS, 2), 0, atol=1e-6)
    odd = [POINTS[0]._replace(step_s=3 * POINTS[0].step_s), *POINTS[1:]]
    held_out = held_out_errors(odd, 2)
    assert held_out[0] == pytest.approx(-2 / 3)
    assert max(abs(error) for error in held_out[1:]) > 1e-3


@pytest.mark.parametrize("lacking", ["small", "large", "sliced", "whole"])
def test_a_fit_without_the_points_that_it_needs_is_refused(lacking: str):
    kept = {
        "small": [point for point in POINTS if point.load.part_bytes > 2e6],
        "large": [point for point in POINTS if point.load.num_bytes < 2e6],
        "sliced": [point for point in POINTS if point.load.num_slices == 1],
        "whole": [point for point in POINTS if point.load.num_slices > 1],
    }
    with pytest.raises(ValueError, match="small and large vectors, with and without slices"):
        fit(kept[lacking], shared_cores=2)


def test_with_free_processors_the_busiest_link_is_what_is_left_one_way_after_the_other():
    load = Load(num_workers=100, num_bytes=4e7, num_slices=4)
    assert exchange_s(NOTHING, load, CLUSTER) == pytest.approx(2 * 100 * 1e7 / 1.25e9)
    assert exchange_s(NOTHING, load._replace(num_workers=2), CLUSTER) == pytest.approx(2 * 4e7 / 1.25e9)  # a worker's
    assert busy(NOTHING, load, CLUSTER).bottleneck == "network"


def test_on_one_machine_the_cores_share_all_the_work():
    load = Load(num_workers=8, num_bytes=1e5)
    apart = busy(COSTS, load, Machines(None))
    together = busy(COSTS, load, Machines(shared_cores=2))
    assert together.cores == pytest.approx((apart.server + 8 * apart.worker) / 2)
    assert together.worker == 0


def test_a_large_vector_travels_by_other_prices():
    only_direct = replace(NOTHING, direct_call=1.0)
    assert exchange_s(only_direct, Load(3, 2**20), CLUSTER) == pytest.approx(3.0)
    assert exchange_s(only_direct, Load(3, 2**20 + 4), CLUSTER) < 0.1
    assert busy(only_direct, Load(3, 2**20 + 4, num_slices=2), CLUSTER).slice == pytest.approx(3.0)


def test_a_meta_step_without_exchange_is_the_longest_workers_computation():
    job = Job(meta_batch=10, task_s=0.5)
    times = [step_s(NOTHING, job, Load(workers, 0.0), CLUSTER) for workers in (1, 3, 10)]
    assert times == [5.0, 2.0, 0.5]


def test_workers_beyond_the_shards_compute_nothing_and_the_advice_is_more_shards():
    job = Job(meta_batch=10, task_s=0.5, num_shards=4)
    assert [job.compute_s(workers) for workers in (1, 2, 3, 4, 9)] == [6.0, 3.0, 3.0, 1.5, 1.5]
    assert [job.keeps_busy(workers) for workers in (3, 9)] == [3, 4]
    assert advice(NOTHING, job, Load(3, 1e5), CLUSTER) == "cluster.num_workers"
    assert advice(NOTHING, job, Load(4, 1e5), CLUSTER) == "train.num_shards"


def test_saturation_is_the_root_of_computation_over_exchange():
    per_push = replace(NOTHING, direct_call=1e-3)
    job = Job(meta_batch=100_000, task_s=1e-3)
    found = saturation(per_push, job, Load(1, 1000.0), CLUSTER)
    assert found == pytest.approx(math.sqrt(100_000 * 1e-3 / 1e-3), rel=0.05)
    assert saturation(NOTHING, Job(50, 1.0), Load(1, 0.0), CLUSTER) == 50


@pytest.mark.parametrize(
    ("costs", "load", "task_s", "setting"),
    [
        (COSTS, Load(2, 1e5), 10.0, "cluster.num_workers"),
        (replace(NOTHING, direct_call=1e-3), Load(500, 1e5), 1e-6, "train.meta_batch"),
        (replace(NOTHING, direct_byte=1e-8), Load(500, 1e5), 1e-6, "cluster.num_slices"),
        (replace(NOTHING, direct_byte=1e-8), Load(500, 1e5, 2), 1e-6, "cluster.num_slices"),
        (replace(NOTHING, control_call=1e-3), Load(500, 1e5, 2), 1e-6, "train.meta_batch"),
        (NOTHING, Load(500, 1e7), 1e-6, "cluster.num_slices, on more machines; then the wire types"),
    ],
)
def test_advice_names_the_setting_of_the_busiest_part(costs: Costs, load: Load, task_s: float, setting: str):
    assert advice(costs, Job(1000, task_s), load, CLUSTER) == setting


def test_on_one_machine_with_idle_server_the_advice_is_another_machine():
    costs = replace(NOTHING, worker_call=1e-3)
    assert advice(costs, Job(1000, 1e-9), Load(500, 1e5), Machines(shared_cores=2)) == "another machine"
