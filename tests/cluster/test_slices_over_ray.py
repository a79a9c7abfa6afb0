"""Slices and policies over Ray: what is exact has the bits of the run in one process, what is not keeps its bounds."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from bystanders import ignore, never
from fake_learner import HeldUp, KilledOnce, slow_gradient, training_plan
from victims import victims

from cluster import checkpoint as checkpoints
from cluster.aggregation import AggregationPlan
from cluster.errors import ClusterError
from cluster.plan import StepRecord
from cluster.policies import Asynchronous, ServerPolicy, Stale
from cluster.training import run_meta_training

pytestmark = pytest.mark.ray


def test_slices_narrow_wires_and_the_average_have_the_bits_of_one_process_over_a_kill_and_a_resume(
    ray_cluster: None, tmp_path: Path
):
    narrow = AggregationPlan(gradient_wire="bfloat16", parameter_wire="bfloat16")
    averaged = replace(training_plan(tmp_path).optimizer, average_decay=0.9)
    plan = replace(training_plan(tmp_path / "local"), optimizer=averaged, aggregation=narrow)
    local = run_meta_training(plan, ignore, never)
    build = partial(KilledOnce, 6, tmp_path / "killed")
    plan = replace(plan, checkpoint_dir=tmp_path / "ray", num_workers=2, build_gradient=build)
    records: list[StepRecord] = []
    sliced = replace(plan, aggregation=replace(narrow, num_slices=2))
    first = run_meta_training(sliced, records.append, lambda: len(records) >= 7)
    assert first.interrupted and (tmp_path / "killed").exists()
    last = run_meta_training(replace(plan, num_workers=1, resume=True), records.append, never)
    assert last.params_sha256 == local.params_sha256
    ends = [checkpoints.load(run.checkpoint) for run in (local, last)]
    assert ends[0].average is not None and ends[1].average is not None
    np.testing.assert_array_equal(ends[0].average, ends[1].average)
    assert [record.version for record in records] == list(range(1, 13))
    assert records[4].num_bytes % (2 * len(local.parameters)) == 0


@pytest.mark.parametrize("victim", ["Slice", "Server"])
def test_server_and_slices_outlive_each_other_and_the_bits_stay(ray_cluster: None, tmp_path: Path, victim: str):
    plan = training_plan(tmp_path / "run", num_workers=2, build=slow_gradient)
    local = run_meta_training(replace(plan, checkpoint_dir=tmp_path / "local", num_workers=0), ignore, never)
    records: list[StepRecord] = []
    killed: list[psutil.Process] = []
    alive: list[set[int]] = []

    def kill(record: StepRecord) -> None:
        records.append(record)
        if record.version in (6, 12):
            alive.append({process.pid for name in ("Server", "Slice") for process in victims(name)})
        if record.version == 7:
            killed.append(victims(victim)[-1])
            killed[0].kill()

    result = run_meta_training(replace(plan, aggregation=AggregationPlan(num_slices=2)), kill, never)
    assert result.params_sha256 == local.params_sha256
    assert [record.version for record in records] == list(range(1, 13))
    before, after = alive
    assert before - after == {killed[0].pid} and len(before) == len(after) == 3
    assert records[-1].restarts == 1


def test_a_slice_of_other_code_ends_the_run_saying_so(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cluster.slice_actors.code_version", lambda: "sources 0")
    plan = replace(training_plan(tmp_path, num_workers=1), aggregation=AggregationPlan(num_slices=2))
    with pytest.raises(ClusterError, match=r"a slice .* could not start: .* runs other code than the run"):
        run_meta_training(plan, ignore, never)


def test_a_shard_that_a_worker_sits_on_is_given_to_an_idle_one_and_the_bits_stay(ray_cluster: None, tmp_path: Path):
    released = tmp_path / "released"
    build = partial(HeldUp, 6, tmp_path / "begun", released)
    plan = training_plan(tmp_path / "run", num_workers=2, build=build)
    local = run_meta_training(training_plan(tmp_path / "local"), ignore, never)
    records: list[StepRecord] = []

    def release(record: StepRecord) -> None:
        records.append(record)
        if record.version == 7:
            released.touch()

    assert run_meta_training(plan, release, never).params_sha256 == local.params_sha256
    assert (tmp_path / "begun").exists() and records[6].queue_length == 3


@pytest.mark.parametrize(("policy", "num_slices"), [(Stale(1), 1), (Asynchronous(), 2)])
def test_runs_that_are_not_exact_count_every_task_once(
    ray_cluster: None, tmp_path: Path, policy: ServerPolicy, num_slices: int
):
    plan = training_plan(tmp_path, num_workers=2, build=slow_gradient)
    records: list[StepRecord] = []
    plan = replace(plan, aggregation=AggregationPlan(policy, num_slices))
    result = run_meta_training(plan, records.append, never)
    assert result.num_tasks == 120 and np.isfinite(result.parameters).all()
    assert [record.version for record in records] == list(range(1, 13))
    assert all(policy.admits(record.staleness_max) for record in records)
