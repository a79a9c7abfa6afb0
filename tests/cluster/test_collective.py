"""The collective strategy under Ray Train, on real process groups."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
from bystanders import ignore, never
from fake_learner import Failing, KilledOnce, Slow, training_plan
from ray.util.placement_group import placement_group, remove_placement_group
from stateful_learner import SlowStateful, refreshed_plan
from victims import victims

from cluster import checkpoint as checkpoints
from cluster import collective as collectives
from cluster.errors import ClusterError
from cluster.plan import StepRecord, TrainingPlan
from cluster.training import run_meta_training

pytestmark = pytest.mark.ray


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


@pytest.mark.slow
def test_a_state_is_refreshed_as_under_the_server_over_a_stop_and_a_resume_there(ray_cluster: None, tmp_path: Path):
    records: list[StepRecord] = []
    run, whole = (replace(refreshed_plan(tmp_path / name), num_shards=2) for name in ("run", "whole"))
    plan = replace(run, num_workers=2, build_gradient=partial(SlowStateful, 0.15))
    first = run_meta_training(collective(plan), records.append, lambda: len(records) >= 5)
    assert first.interrupted and 5 <= first.num_steps < 14
    assert checkpoints.load_newest(tmp_path / "run").version == first.num_steps == len(records)
    second = run_meta_training(replace(run, resume=True), records.append, never)
    assert [record.version for record in records] == list(range(1, 15))
    expected = run_meta_training(whole, lambda record: None, never)
    assert second.params_sha256 == expected.params_sha256
    assert second.mode_state is not None and expected.mode_state is not None
    assert second.mode_state.tobytes() == expected.mode_state.tobytes()


@pytest.mark.slow  # the same with ranks as threads is quick: test_replica.py
def test_what_a_learner_raises_on_one_rank_is_raised_here(ray_cluster: None, tmp_path: Path):
    plan = training_plan(tmp_path, num_workers=2, build=Failing)
    with pytest.raises(ValueError, match=r"shard \d of a learner with a mistake"):
        run_meta_training(collective(plan), lambda record: None, never)


def test_more_ranks_than_the_cluster_holds_are_refused_at_once(ray_cluster: None, tmp_path: Path):
    plan = replace(training_plan(tmp_path, num_workers=4), threads_per_worker=3, start_timeout_s=1.0)
    with pytest.raises(ClusterError, match=r"ask for 12 CPUs, but the Ray cluster has 4 CPUs"):
        run_meta_training(collective(plan), lambda record: None, never)


def after(seconds: float) -> Callable[[], bool]:
    """A stop that keeps a test from hanging."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() > deadline


def test_ranks_whose_room_was_taken_before_they_came_end_the_run(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other_job = placement_group([{"CPU": 3.0}])
    ray.get(other_job.ready())
    monkeypatch.setattr(collectives, "require_room", lambda plan: None)
    monkeypatch.setattr(collectives, "_START_S", 0.0)
    plan = replace(training_plan(tmp_path, num_workers=2), min_workers=2, regrow_timeout_s=2.0)
    try:
        with pytest.raises(ClusterError, match=r"ask for 2 CPUs, but .* 4 CPUs on 1 node, with 1 CPU free and a place"):
            run_meta_training(collective(plan), ignore, after(30))
    finally:
        remove_placement_group(other_job)


@pytest.mark.slow
def test_ranks_whose_room_was_taken_when_one_died_end_the_run_and_those_that_have_room_do_not(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other_jobs, records = [], []

    def starve(record: StepRecord) -> None:
        records.append(record)
        monkeypatch.setattr(collectives, "_START_S", 0.0)  # the ranks have started
        if record.version == 8:  # longer than they may be without a place
            other_jobs.append(placement_group([{"CPU": 3.0}]))
            victims("RayTrainWorker")[0].kill()

    plan = training_plan(tmp_path, num_workers=2, build=partial(Slow, 0.2))
    plan = replace(plan, threads_per_worker=2, min_workers=2, start_timeout_s=30.0, regrow_timeout_s=2.0)
    try:
        with pytest.raises(ClusterError, match=r"ask for 4 CPUs, but .*: lower .* or raise --cluster.regrow-timeout-s"):
            run_meta_training(collective(plan), starve, after(60))
    finally:
        for job in other_jobs:
            remove_placement_group(job)
    assert [record.version for record in records] == list(range(1, 9))
