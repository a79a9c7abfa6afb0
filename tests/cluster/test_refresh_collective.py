"""A learner's state in a collective run, whose ranks are threads here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bystanders import never
from stateful_learner import FailingRefresh, build_stateful, refreshed_plan
from thread_ring import run_replicas

from cluster.checkpoint import Checkpoint
from cluster.errors import UserError
from cluster.journal import Journal
from cluster.plan import StepRecord, TrainingPlan, TrainingResult
from cluster.shards import Shard, ShardReport
from cluster.training import run_meta_training


def by_the_server(plan: TrainingPlan, num_steps: int | None = None) -> TrainingResult:
    """A run of this process, stopped after `num_steps` if they are given."""
    records: list[StepRecord] = []
    return run_meta_training(plan, records.append, lambda: len(records) == num_steps)


def by_ranks(plan: TrainingPlan, size: int) -> tuple[Checkpoint, list[StepRecord]]:
    """The rest of a run that has begun."""
    journal = Journal(plan.server)
    run_replicas(plan, journal, size)
    return journal.finish(), journal.read(0)


@pytest.mark.parametrize(("size", "num_shards"), [(1, 4), (2, 2)])
@pytest.mark.parametrize("begun", [1, 5, 6, 7])
def test_ranks_go_on_from_the_servers_checkpoint_with_its_bits(tmp_path: Path, size: int, num_shards: int, begun: int):
    make = [replace(refreshed_plan(tmp_path / name), num_shards=num_shards) for name in ("whole", "half")]
    whole = by_the_server(make[0])
    by_the_server(make[1], begun)
    last, records = by_ranks(make[1], size)
    assert last.parameters.tobytes() == whole.parameters.tobytes()
    assert last.mode_state is not None and whole.mode_state is not None
    assert last.mode_state.tobytes() == whole.mode_state.tobytes()
    found = {record.version: record.refresh["version"] for record in records if record.refresh}
    assert found == {version: of for version, of in {3: 0, 7: 4, 11: 8}.items() if version > begun}


@pytest.mark.parametrize("size", [2, 3, 5])
def test_any_number_of_ranks_ends_where_the_server_ends(tmp_path: Path, size: int):
    whole = by_the_server(refreshed_plan(tmp_path / "whole"))
    plan = refreshed_plan(tmp_path / "ranks")
    by_the_server(plan, 1)
    last, _ = by_ranks(plan, size)
    np.testing.assert_allclose(last.parameters, whole.parameters, rtol=1e-4, atol=1e-5)
    assert last.mode_state is not None and whole.mode_state is not None
    np.testing.assert_allclose(last.mode_state, whole.mode_state, rtol=1e-4, atol=1e-5)


def test_a_refresh_that_fails_on_rank_0_ends_all_ranks_and_the_run_can_be_resumed(tmp_path: Path):
    whole = by_the_server(refreshed_plan(tmp_path / "whole"))
    plan = refreshed_plan(tmp_path / "ranks")
    by_the_server(plan, 1)
    with pytest.raises(ValueError, match="the refresh after meta-step 4 has a mistake"):
        by_ranks(refreshed_plan(tmp_path / "ranks", refreshes=FailingRefresh), 2)
    again = run_meta_training(replace(plan, resume=True), lambda record: None, never)
    np.testing.assert_allclose(again.parameters, whole.parameters, rtol=1e-4, atol=1e-5)


class WithoutState:
    """A shard computation with no method `adopt`."""

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        return build_stateful()(parameters, shard)


def test_a_computation_that_cannot_adopt_ends_all_ranks(tmp_path: Path):
    by_the_server(refreshed_plan(tmp_path), 1)
    with pytest.raises((TypeError, UserError), match="WithoutState has no state to refresh"):
        by_ranks(refreshed_plan(tmp_path, build=WithoutState), 2)
