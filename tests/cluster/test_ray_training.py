"""The run over Ray has the bits of the run in this process, whatever happens to its workers."""

import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from bystanders import ignore, never
from fake_learner import Dying, Failing, HeldUpForm, KilledOnce, NotFinite, Renamed, slow_gradient, training_plan
from victims import victims

from cluster import checkpoint as checkpoints
from cluster.aggregation import AggregationPlan
from cluster.errors import CheckpointError, ClusterError, RefusedSteps
from cluster.plan import StepRecord
from cluster.training import run_meta_training

pytestmark = pytest.mark.ray
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """sha256 of the parameters after the whole run in this process."""
    return run_meta_training(training_plan(tmp_path_factory.mktemp("local")), ignore, never).params_sha256


@pytest.mark.parametrize("num_workers", [pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW), 4])
def test_any_number_of_workers_gives_the_bits_of_one_process(
    ray_cluster: None, tmp_path: Path, expected: str, num_workers: int
):
    records: list[StepRecord] = []
    result = run_meta_training(training_plan(tmp_path, num_workers=num_workers), records.append, never)
    assert result.params_sha256 == expected
    assert [record.version for record in records] == list(range(1, 13))
    assert checkpoints.load(result.checkpoint).version == 12


@SLOW  # quicker with slices: test_slices_over_ray.py
def test_a_worker_killed_by_sigkill_is_replaced_and_the_bits_stay(ray_cluster: None, tmp_path: Path, expected: str):
    marker = tmp_path / "killed"
    build, records = partial(KilledOnce, 4, marker), []
    result = run_meta_training(training_plan(tmp_path / "run", num_workers=2, build=build), records.append, never)
    assert marker.exists() and result.params_sha256 == expected
    assert (records[0].restarts, records[-1].restarts) == (0, 1)
    assert records[0].num_workers == 2 and {record.num_workers for record in records} <= {1, 2}


@SLOW  # quicker with slices: test_slices_over_ray.py
def test_stopped_with_two_workers_and_resumed_with_one_the_bits_stay(ray_cluster: None, tmp_path: Path, expected: str):
    records: list[StepRecord] = []
    plan = training_plan(tmp_path, num_workers=2, build=slow_gradient)
    first = run_meta_training(plan, records.append, lambda: len(records) >= 3)
    assert first.interrupted and 3 <= first.num_steps < 12
    assert checkpoints.load_newest(tmp_path).version == first.num_steps == len(records)
    second = run_meta_training(training_plan(tmp_path, num_workers=1, resume=True), records.append, never)
    assert second.params_sha256 == expected
    assert [record.version for record in records] == list(range(1, 13))


@pytest.mark.parametrize("strategy", ["server", pytest.param("collective", marks=SLOW)])
def test_a_run_stopped_below_a_damaged_checkpoint_keeps_and_names_its_own(
    ray_cluster: None, tmp_path: Path, strategy: Literal["server", "collective"]
):
    run_meta_training(training_plan(tmp_path, num_steps=1), ignore, never)
    (tmp_path / "checkpoint-00000090.mcb").write_bytes(b"MCB")
    plan = training_plan(tmp_path, num_steps=90, num_workers=1, build=slow_gradient, resume=True)
    records: list[StepRecord] = []
    plan = replace(plan, strategy=strategy, checkpoint_keep=1)
    result = run_meta_training(plan, records.append, lambda: bool(records))
    assert result.interrupted and checkpoints.load(result.checkpoint).version == result.num_steps < 90
    assert checkpoints.paths(tmp_path) == [result.checkpoint]


def test_too_many_refused_steps_end_the_run(ray_cluster: None, tmp_path: Path):
    build = partial(NotFinite, frozenset({6, 7}), index=2)
    records: list[StepRecord] = []
    with pytest.raises(RefusedSteps, match=r"meta-step 7 .* shard 2"):
        plan = training_plan(tmp_path, num_workers=1, build=build, max_refused_steps=1)
        run_meta_training(plan, records.append, never)
    assert records[-1].refused == 2
    assert checkpoints.load_newest(tmp_path).version == 5


def test_what_a_learner_raises_in_a_worker_is_raised_here(ray_cluster: None, tmp_path: Path):
    with pytest.raises(ValueError, match=r"shard \d of a learner with a mistake"):
        run_meta_training(training_plan(tmp_path, num_workers=1, build=Failing), ignore, never)


def test_a_checkpoint_that_the_server_cannot_write_ends_the_run(ray_cluster: None, tmp_path: Path):
    folder = tmp_path / "run"

    def destroy(record: StepRecord) -> None:
        if folder.is_dir():
            shutil.rmtree(folder)
            folder.touch()

    with pytest.raises(CheckpointError, match="could not be written"):
        run_meta_training(training_plan(folder, num_workers=1, build=slow_gradient), destroy, never)


def test_more_workers_than_the_cluster_holds_are_refused_saying_what_is_asked_and_held(
    ray_cluster: None, tmp_path: Path
):
    plan = replace(training_plan(tmp_path, num_workers=4), threads_per_worker=3, start_timeout_s=1.0)
    with pytest.raises(
        ClusterError, match=r"ask for 12 CPUs, but the Ray cluster has 4 CPUs.* place for 1 of"
    ) as raised:
        run_meta_training(plan, ignore, never)
    assert "min-workers" in str(raised.value) and "\n" not in str(raised.value)


def test_a_run_begins_with_fewer_workers_where_fewer_are_enough(ray_cluster: None, tmp_path: Path):
    plan = replace(training_plan(tmp_path, num_workers=4), threads_per_worker=3, min_workers=1)
    local = run_meta_training(
        replace(plan, num_workers=0, min_workers=None, checkpoint_dir=tmp_path / "0"), ignore, never
    )
    assert run_meta_training(plan, ignore, never).params_sha256 == local.params_sha256


def test_a_server_killed_alone_and_then_with_all_workers_is_replaced_and_every_step_is_seen_once(
    ray_cluster: None, tmp_path: Path, expected: str, caplog: pytest.LogCaptureFixture
):
    records: list[StepRecord] = []

    def kill(record: StepRecord) -> None:
        records.append(record)
        if record.version in (3, 8):
            doomed = victims("Server") + (victims("Worker") if record.version == 8 else [])
            for process in doomed:
                process.kill()

    plan = training_plan(tmp_path, num_workers=2, build=slow_gradient)
    assert run_meta_training(plan, kill, never).params_sha256 == expected
    assert [record.version for record in records] == list(range(1, 13))
    assert caplog.text.count("the parameter server died after meta-step") == 2
    assert records[-1].restarts == 4  # the server twice, each worker once


@pytest.mark.parametrize("victim", ["Server", "Slice"])
def test_a_part_killed_while_the_last_checkpoint_is_written_is_replaced_and_every_step_is_seen_once(
    ray_cluster: None, tmp_path: Path, expected: str, victim: str
):
    begun, released, records, give_up_at = tmp_path / "begun", tmp_path / "released", [], time.monotonic() + 60

    def kill(record: StepRecord) -> None:
        records.append(record)
        while record.version == 12 and not begun.exists():
            time.sleep(0.01)
        if record.version == 12:
            victims(victim)[0].kill()
            released.touch()

    plan = training_plan(tmp_path / "run", num_workers=1, checkpoint_every=100)  # the last checkpoint is the only one
    plan = replace(plan, task_form=HeldUpForm(begun, released), aggregation=AggregationPlan(num_slices=2))
    result = run_meta_training(plan, kill, lambda: time.monotonic() > give_up_at)
    assert result.params_sha256 == expected
    assert [record.version for record in records] == list(range(1, 13))


def test_a_worker_of_other_code_is_refused(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cluster.unit.code_version", lambda: "sources 0")
    with pytest.raises(
        ClusterError, match=r"a process on .* runs other code than the run: it has sources .* sources 0"
    ):
        run_meta_training(training_plan(tmp_path, num_workers=1), ignore, never)


def test_a_server_of_other_code_is_refused_before_the_plan_is_unpickled_there(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cluster.supervisor.code_version", lambda: "sources 0")
    with pytest.raises(ClusterError, match=r"server could not start: .* runs other code than the run: .* sources 0"):
        run_meta_training(replace(training_plan(tmp_path, num_workers=1), task_form=Renamed()), ignore, never)


@SLOW  # the counting of deaths without Ray: test_roster.py
def test_workers_that_always_die_end_the_run(ray_cluster: None, tmp_path: Path):
    with pytest.raises(ClusterError, match="a worker died after meta-step 0, and 4 deaths came with no meta-step done"):
        run_meta_training(training_plan(tmp_path, num_workers=1, build=Dying), ignore, never)
