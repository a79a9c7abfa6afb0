"""A learner's state over Ray: the bits of the run in this process, whatever dies between a survey and its adoption."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from bystanders import ignore, never
from stateful_learner import (
    DyingRefresh,
    FailingRefresh,
    GatedRefresh,
    KilledAtSurvey,
    KilledRefresh,
    MovesCentres,
    SlowStateful,
    build_stateful_share,
    refreshed_plan,
)
from victims import victims

from cluster import checkpoint as checkpoints
from cluster.aggregation import AggregationPlan
from cluster.errors import ClusterError
from cluster.group_plan import GroupPlan
from cluster.plan import StepRecord, TrainingPlan, TrainingResult
from cluster.training import run_meta_training

pytestmark = pytest.mark.ray
SLOW = pytest.mark.slow


def bits(result: TrainingResult) -> tuple[str, bytes]:
    assert result.mode_state is not None
    return result.params_sha256, result.mode_state.tobytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """Bits of the whole run in this process."""
    return bits(run_meta_training(refreshed_plan(tmp_path_factory.mktemp("local")), ignore, never))


@SLOW  # with two workers the tests below prove it
@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_bits_of_one_process(
    ray_cluster: None, tmp_path: Path, expected: tuple[str, bytes], num_workers: int
):
    records: list[StepRecord] = []
    run = refreshed_plan(tmp_path, num_workers=num_workers, checkpoint_every=1)
    assert bits(run_meta_training(run, records.append, never)) == expected
    assert {record.version: record.refresh["version"] for record in records if record.refresh} == {3: 0, 7: 4, 11: 8}


def with_slices(plan: TrainingPlan) -> TrainingPlan:
    return replace(plan, aggregation=AggregationPlan(num_slices=2))


def with_groups(plan: TrainingPlan) -> TrainingPlan:
    return replace(plan, group=GroupPlan(2, build_stateful_share))


@SLOW  # both at once: the next test
@pytest.mark.parametrize("change", [with_slices, with_groups])
def test_slices_and_groups_have_the_same_bits(
    ray_cluster: None, tmp_path: Path, expected: tuple[str, bytes], change: Callable[[TrainingPlan], TrainingPlan]
):
    assert bits(run_meta_training(change(refreshed_plan(tmp_path, num_workers=2)), ignore, never)) == expected


@pytest.mark.slow
def test_groups_with_slices_and_bfloat16_on_the_wire_have_the_bits_of_the_same_run_in_one_process(
    ray_cluster: None, tmp_path: Path
):
    wire = AggregationPlan(parameter_wire="bfloat16", gradient_wire="bfloat16")
    one = bits(run_meta_training(replace(refreshed_plan(tmp_path / "one"), aggregation=wire), ignore, never))
    run = with_groups(refreshed_plan(tmp_path / "ray", num_workers=2))
    assert bits(run_meta_training(replace(run, aggregation=replace(wire, num_slices=2)), ignore, never)) == one


def test_a_worker_killed_at_the_survey_and_a_refresh_killed_later_lose_none_of_it(
    ray_cluster: None, tmp_path: Path, expected: tuple[str, bytes]
):
    worker, refresher = tmp_path / "worker killed", tmp_path / "refresher killed"
    run = refreshed_plan(
        tmp_path / "run",
        num_workers=2,
        build=partial(KilledAtSurvey, 4, worker),
        refreshes=partial(KilledRefresh, 8, refresher),
    )
    assert bits(run_meta_training(run, ignore, never)) == expected and worker.exists() and refresher.exists()


@pytest.mark.parametrize(
    "version", [pytest.param(4, marks=SLOW), 5, pytest.param(6, marks=SLOW), pytest.param(7, marks=SLOW)]
)
def test_a_server_killed_around_a_survey_and_its_adoption_changes_nothing(
    ray_cluster: None, tmp_path: Path, expected: tuple[str, bytes], version: int
):
    records: list[StepRecord] = []

    def kill(record: StepRecord) -> None:
        records.append(record)
        if record.version == version:
            victims("Server")[0].kill()

    run = refreshed_plan(tmp_path, num_workers=2, build=SlowStateful, checkpoint_every=1)
    assert bits(run_meta_training(run, kill, never)) == expected
    assert {record.version: record.refresh["version"] for record in records if record.refresh} == {3: 0, 7: 4, 11: 8}


def test_a_slice_killed_while_a_checkpoint_waits_for_a_refresh_changes_nothing(
    ray_cluster: None, tmp_path: Path, expected: tuple[str, bytes]
):
    begun, gate, records = tmp_path / "begun", tmp_path / "gate", list[int]()

    def kill(record: StepRecord) -> None:
        records.append(record.version)
        if record.version == 2:  # whose checkpoint waits for that of meta-step 1, which waits for the refresh
            victims("Slice")[0].kill()
            threading.Timer(3.0, gate.touch).start()

    refreshes = partial(GatedRefresh, begun, gate)
    run = refreshed_plan(tmp_path / "run", num_workers=2, checkpoint_every=1, refreshes=refreshes)
    assert bits(run_meta_training(replace(run, aggregation=AggregationPlan(num_slices=2)), kill, never)) == expected
    assert begun.exists() and records == list(range(1, 15))


@pytest.mark.parametrize("version", [pytest.param(5, marks=SLOW), 6, pytest.param(7, marks=SLOW)])
def test_stopped_between_a_survey_and_its_adoption_the_run_goes_on_in_another_process_with_the_same_bits(
    ray_cluster: None, tmp_path: Path, expected: tuple[str, bytes], version: int
):
    run = refreshed_plan(tmp_path, num_workers=1, build=SlowStateful, refreshes=partial(MovesCentres, 0.3))
    records: list[StepRecord] = []
    first = run_meta_training(run, records.append, lambda: len(records) >= version)
    assert first.interrupted and checkpoints.load_newest(tmp_path).version == first.num_steps
    assert bits(run_meta_training(replace(run, num_workers=0, resume=True), records.append, never)) == expected
    assert [record.version for record in records] == list(range(1, 15))


def test_training_goes_on_while_a_refresh_is_computed_up_to_its_adoption_and_no_further(
    ray_cluster: None, tmp_path: Path, expected: tuple[str, bytes]
):
    begun, gate, seen = tmp_path / "begun", tmp_path / "gate", []

    def open_late() -> None:
        for _ in range(6000):
            if begun.exists() and len(seen) == 2:
                break
            time.sleep(0.01)
        time.sleep(1.0)
        seen.append("opened")
        gate.touch()

    opener = threading.Thread(target=open_late)
    opener.start()
    run = refreshed_plan(tmp_path / "run", num_workers=2, refreshes=partial(GatedRefresh, begun, gate))
    result = run_meta_training(run, lambda record: seen.append(record.version), never)
    opener.join()
    assert bits(result) == expected and seen == [1, 2, "opened", *range(3, 15)]


def test_what_a_refresh_raises_is_raised_here(ray_cluster: None, tmp_path: Path):
    with pytest.raises(ValueError, match="the refresh after meta-step 0 has a mistake"):
        run_meta_training(refreshed_plan(tmp_path, num_workers=1, refreshes=FailingRefresh), ignore, never)


@SLOW
def test_a_refresh_whose_process_always_dies_ends_the_run(ray_cluster: None, tmp_path: Path):
    with pytest.raises(ClusterError, match="the refresh after meta-step 0 could not start, or died 4 times"):
        run_meta_training(refreshed_plan(tmp_path, num_workers=1, refreshes=DyingRefresh), ignore, never)
