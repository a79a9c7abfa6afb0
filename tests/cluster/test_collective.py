"""The collective strategy under Ray Train, on real process groups."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fake_learner import Failing, KilledOnce, slow_gradient, training_plan
from stateful_learner import refreshed_plan

from cluster import checkpoint as checkpoints
from cluster.errors import ClusterError
from cluster.plan import StepRecord, TrainingPlan
from cluster.training import run_meta_training

pytestmark = pytest.mark.ray


def never() -> bool:
    return False


def collective(plan: TrainingPlan) -> TrainingPlan:
    return replace(plan, strategy="collective")


def test_a_rank_killed_by_sigkill_every_step_is_seen_once_and_the_end_is_the_servers(ray_cluster: None, tmp_path: Path):
    marker = tmp_path / "killed"
    records: list[StepRecord] = []
    plan = training_plan(tmp_path / "run", num_workers=2, build=partial(KilledOnce, 7, marker))
    result = run_meta_training(collective(plan), records.append, never)
    assert marker.exists()
    assert [record.version for record in records] == list(range(1, 13))
    expected = run_meta_training(training_plan(tmp_path / "server"), lambda record: None, never)
    np.testing.assert_allclose(result.parameters, expected.parameters, rtol=1e-5, atol=1e-6)
    assert (result.num_steps, result.num_tasks) == (expected.num_steps, expected.num_tasks)


def test_stopped_under_the_collective_and_resumed_under_the_server_the_bits_stay(ray_cluster: None, tmp_path: Path):
    records: list[StepRecord] = []
    plan = training_plan(tmp_path / "run", num_workers=1, build=slow_gradient)
    first = run_meta_training(collective(plan), records.append, lambda: len(records) >= 3)
    assert first.interrupted and 3 <= first.num_steps < 12
    assert checkpoints.load_newest(tmp_path / "run").version == first.num_steps == len(records)
    second = run_meta_training(training_plan(tmp_path / "run", resume=True), records.append, never)
    assert [record.version for record in records] == list(range(1, 13))
    expected = run_meta_training(training_plan(tmp_path / "whole"), lambda record: None, never)
    assert second.params_sha256 == expected.params_sha256


@pytest.mark.slow  # the same with ranks as threads is quick: test_replica.py
def test_what_a_learner_raises_on_one_rank_is_raised_here(ray_cluster: None, tmp_path: Path):
    plan = training_plan(tmp_path, num_workers=2, build=Failing)
    with pytest.raises(ValueError, match=r"shard \d of a learner with a mistake"):
        run_meta_training(collective(plan), lambda record: None, never)


def test_more_ranks_than_the_cluster_holds_are_refused_at_once(ray_cluster: None, tmp_path: Path):
    plan = replace(training_plan(tmp_path, num_workers=4), threads_per_worker=3, start_timeout_s=1.0)
    with pytest.raises(ClusterError, match="ask for 12 CPUs, but the Ray cluster has 4 CPUs"):
        run_meta_training(collective(plan), lambda record: None, never)


def test_a_state_is_refreshed_as_under_the_server(ray_cluster: None, tmp_path: Path):
    plans = [replace(refreshed_plan(tmp_path / str(num), num_workers=num), num_shards=2) for num in (0, 2)]
    one = run_meta_training(plans[0], lambda record: None, never)
    two = run_meta_training(collective(plans[1]), lambda record: None, never)
    assert two.params_sha256 == one.params_sha256
    assert one.mode_state is not None and two.mode_state is not None
    assert one.mode_state.tobytes() == two.mode_state.tobytes()
