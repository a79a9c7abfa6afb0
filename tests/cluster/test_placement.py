from dataclasses import replace
from pathlib import Path

import pytest
from fake_learner import training_plan

from cluster.errors import UserError
from cluster.group_plan import GroupPlan
from cluster.placement import bundles, fits, num_runs_at_once, num_units, shortage
from cluster.shards import ComputesMetaGradient
from mcb.sharing import Sharing


def no_share(sharing: Sharing) -> ComputesMetaGradient:
    raise AssertionError("nothing is computed here")


PLAN = replace(training_plan(Path("unused"), num_workers=9), threads_per_worker=3)


def test_more_workers_than_shards_are_not_asked_for():
    assert num_units(PLAN) == 4 and bundles(PLAN) == [{"CPU": 3.0}]


def test_only_a_placement_group_of_the_runs_own_bundles_was_made_for_it():
    assert fits(PLAN, [{"CPU": 3.0}] * 4) and fits(PLAN, [{"CPU": 3, "GPU": 0}] * 4)
    for other in ([], [{"CPU": 3.0}] * 3, [{"CPU": 3.0}] * 5, [{"CPU": 1.0}] * 4, [{"CPU": 3.0, "GPU": 1.0}] * 4):
        assert not fits(PLAN, other)
    ranks = replace(PLAN, group=GroupPlan(2, no_share), num_workers=2, gpus_per_worker=0.5)
    assert fits(ranks, [{"CPU": 3.0, "GPU": 0.5}] * 4) and not fits(ranks, [{"CPU": 3.0, "GPU": 0.5}] * 2)
    assert not fits(replace(PLAN, num_workers=0), [])


def test_a_shortage_names_what_is_asked_what_is_held_and_what_to_do():
    one = shortage(PLAN, num_placed=1, num_needed=4, nodes=[{"CPU": 4.0, "memory": 1e9}], free={"CPU": 1.0})
    assert one == (
        "4 workers with threads_per_worker=3 ask for 12 CPUs, but the Ray cluster has 4 CPUs on 1 node, with 1 CPU "
        "free and a place for 1 of the workers: lower --cluster.num-workers or --cluster.min-workers or "
        "--cluster.threads-per-worker, add nodes, or raise --cluster.start-timeout-s if some are on their way"
    )
    nodes = [{"CPU": 2.0}, {"CPU": 2.0, "GPU": 1.0}]
    two = shortage(PLAN, num_placed=0, num_needed=1, nodes=nodes, free={})
    assert "ask for 12 CPUs (1 of them would do)" in two
    assert "has 4 CPUs and 1 GPU on 2 nodes, 2 CPUs and 1 GPU on the largest, with nothing free" in two


def test_a_shortage_for_one_worker_names_no_remedy_that_is_none():
    plan = replace(PLAN, num_workers=1, threads_per_worker=1)
    assert shortage(plan, num_placed=0, num_needed=1, nodes=[{"CPU": 4.0}], free={}) == (
        "1 worker with threads_per_worker=1 asks for 1 CPU, but the Ray cluster has 4 CPUs on 1 node, with nothing "
        "free and no place for it: add nodes, or raise --cluster.start-timeout-s if some are on their way"
    )
    later = shortage(plan, num_placed=0, num_needed=1, nodes=[], free={}, has_begun=True)
    assert "--cluster.regrow-timeout-s" in later and "start-timeout" not in later


def test_a_group_asks_for_a_place_for_each_of_its_ranks_on_one_node():
    group = GroupPlan(3, no_share)
    plan = replace(PLAN, group=group, gpus_per_worker=0.5)
    assert bundles(plan) == [{"CPU": 3.0, "GPU": 0.5}] * 3
    assert bundles(replace(PLAN, gpus_per_worker=1.0)) == [{"CPU": 3.0, "GPU": 1.0}]
    said = shortage(plan, num_placed=2, num_needed=4, nodes=[{"CPU": 18.0, "GPU": 3.0}], free={})
    assert said.startswith(
        "4 workers of 3 ranks, each worker on one node, with threads_per_worker=3 and gpus_per_worker=0.5 ask for "
        "36 CPUs and 6 GPUs, but the Ray cluster has 18 CPUs and 3 GPUs on 1 node"
    )
    assert all(f"--cluster.{name}-per-worker" in said for name in ("ranks", "threads", "gpus"))


@pytest.mark.parametrize("gpus_per_worker", [-0.5, 2.0, float("nan")])
def test_more_or_less_gpu_than_a_process_computes_on_is_refused(gpus_per_worker: float):
    with pytest.raises(UserError, match=r"gpus_per_worker=\S+ must lie in 0..1"):
        replace(PLAN, gpus_per_worker=gpus_per_worker)


def test_a_group_on_a_gpu_is_refused_in_one_process():
    with pytest.raises(UserError, match="give num_workers >= 1"):
        replace(PLAN, num_workers=0, group=GroupPlan(2, no_share), gpus_per_worker=0.5)


@pytest.mark.parametrize("num", [0, 10])
def test_a_minimum_above_the_number_of_workers_is_refused(num: int):
    with pytest.raises(UserError, match=rf"min_workers={num} must lie in 1..num_workers=9"):
        replace(PLAN, min_workers=num)


def test_runs_at_once_are_those_whose_workers_the_nodes_hold():
    nodes = [{"CPU": 4.0}, {"CPU": 7.0}]
    plan = replace(PLAN, num_workers=2, threads_per_worker=2)
    assert num_runs_at_once(plan, nodes) == 2  # five places, two for each run
    assert num_runs_at_once(replace(plan, num_workers=0), nodes) == 5
    group = replace(plan, group=GroupPlan(2, no_share, 1.0))
    assert num_runs_at_once(group, [{"CPU": 7.0}, {"CPU": 8.0}]) == 1  # ranks of a worker stay on one node
