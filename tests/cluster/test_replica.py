"""The ranks of a collective run, as threads: the server's numbers, and one end for all of them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bystanders import never
from fake_learner import Failing, NotFinite, build_gradient, training_plan
from thread_ring import Drifting, Meeting, ThreadRing, run_replicas

from cluster import checkpoint as checkpoints
from cluster.buffer import GradientBuffer
from cluster.checkpoint import Checkpoint
from cluster.errors import ClusterError, RefusedSteps
from cluster.gradient import MetaGradient
from cluster.journal import Journal
from cluster.plan import ServerPlan, StepRecord, TrainingPlan, TrainingResult
from cluster.portions import add_up, portion
from cluster.shards import GradientKey
from cluster.shards import plan as cut
from cluster.training import run_meta_training
from jobs.building.objects import GradientBuilder, build_learner, build_source
from jobs.settings.recipes import recipe
from jobs.settings.tree import Network, Settings, Train


def begun(plan: TrainingPlan) -> Journal:
    """The journal of a new run, whose initial parameters are on disk."""
    state: dict[str, object] = {}
    start = Checkpoint(0, plan.parameters, plan.parameter_shapes, plan.optimizer.name, state, plan.settings_yaml)
    checkpoints.save(start, plan.checkpoint_dir, plan.checkpoint_keep)
    return Journal(plan.server)


def by_the_server(folder: Path) -> tuple[TrainingResult, list[StepRecord]]:
    records: list[StepRecord] = []
    return run_meta_training(training_plan(folder), records.append, never), records


@pytest.mark.parametrize(("num_tasks", "num_shards"), [(10, 4), (12, 3), (5, 5), (7, 1)])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_portions_are_the_whole_meta_batch_in_order_and_as_many_pieces_each(num_tasks: int, num_shards: int, size: int):
    (whole,) = cut(3, num_tasks, 1)
    portions = [portion(whole, num_shards, index, size) for index in range(size)]
    tasks = [task for pieces in portions for piece in pieces for task in range(piece.start, piece.stop)]
    assert tasks == list(range(whole.start, whole.stop))
    assert len({len(pieces) for pieces in portions}) == 1
    if num_shards % size == 0:
        assert [piece for pieces in portions for piece in pieces] == list(cut(3, num_tasks, num_shards))


def small(name: str) -> Settings:
    """A recipe with its own modes and inference, and a network that a test can afford."""
    settings = recipe(name)
    network = {**settings.network.model_dump(), "hidden": (8, 8, 4) if name == "five-modes" else (8, 8)}
    network["num_rectified"] = 2 if name == "five-modes" else 0
    return settings.model_copy(update={"network": Network(**network), "train": Train(meta_batch=12, num_shards=4)})


@pytest.mark.parametrize("name", ["five-modes", "five-modes-svgd", "five-modes-maml"])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_meta_gradient_of_a_recipe_is_the_servers_to_1e_6(name: str, size: int):
    settings = small(name)
    compute = GradientBuilder(settings)()
    assert isinstance(compute, MetaGradient)
    parameters = np.concatenate(
        [p.detach().numpy().ravel() for p in build_learner(settings, build_source(settings)).parameters()]
    )
    shards = cut(2, 12, 4)
    buffer = GradientBuffer(len(parameters))
    keys = [GradientKey(shard.version, shard.index, base=2) for shard in shards]
    for key, shard in zip(keys, shards, strict=True):
        buffer.push(key, compute(parameters, shard).gradient)
    buffer.add(keys)
    (whole,) = cut(2, 12, 1)
    pieces = [portion(whole, 4, index, size) for index in range(size)]
    gradients = [add_up(whole, [compute(parameters, piece) for piece in mine]).gradient for mine in pieces]
    total = np.sum(gradients, axis=0, dtype=np.float32)
    scale = np.linalg.norm(buffer.gradient.astype(np.float64))
    assert scale > 0
    assert np.linalg.norm(total.astype(np.float64) - buffer.gradient) <= 1e-6 * scale


def test_one_rank_has_the_bits_of_the_server(tmp_path: Path):
    expected, records = by_the_server(tmp_path / "server")
    plan = training_plan(tmp_path / "ranks")
    journal = begun(plan)
    run_replicas(plan, journal, 1)
    assert journal.finish().parameters.tobytes() == expected.parameters.tobytes()
    assert [record.loss for record in journal.read(0)] == [record.loss for record in records]


@pytest.mark.parametrize("size", [2, 3, 4, 10])
def test_any_number_of_ranks_ends_where_the_server_ends(tmp_path: Path, size: int):
    expected, records = by_the_server(tmp_path / "server")
    plan = training_plan(tmp_path / "ranks")
    journal = begun(plan)
    run_replicas(plan, journal, size)
    last = journal.finish()
    np.testing.assert_allclose(last.parameters, expected.parameters, rtol=1e-5, atol=1e-6)
    assert (last.version, last.num_tasks) == (12, 120)
    found = journal.read(0)
    assert [record.version for record in found] == list(range(1, 13))
    for mine, its in zip(found, records, strict=True):
        np.testing.assert_allclose(mine.gradient_norm, its.gradient_norm, rtol=1e-5)
        np.testing.assert_allclose(mine.nll, its.nll, rtol=1e-5)
        assert mine.learning_rate == its.learning_rate
        assert {name: row["count"] for name, row in mine.per_mode.items()} == {"line": 5, "parabola": 5}


def test_the_server_goes_on_from_the_ranks_checkpoint_and_the_ranks_from_the_servers(tmp_path: Path):
    expected, _ = by_the_server(tmp_path / "whole")
    ranks_first = training_plan(tmp_path / "ranks first")
    begun(ranks_first)
    run_replicas(ranks_first, StoppingAt(ranks_first.server, 7), 1)
    assert checkpoints.load_newest(tmp_path / "ranks first").version == 8  # the step at hand was finished
    result = run_meta_training(replace(ranks_first, resume=True), lambda record: None, never)
    assert result.params_sha256 == expected.params_sha256
    server_first = training_plan(tmp_path / "server first")
    seen: list[StepRecord] = []
    run_meta_training(server_first, seen.append, lambda: len(seen) == 7)
    journal = Journal(server_first.server)
    run_replicas(server_first, journal, 1)
    assert journal.finish().parameters.tobytes() == expected.parameters.tobytes()


class StoppingAt(Journal):
    """Asks to stop once a meta-step is done."""

    def __init__(self, plan: ServerPlan, version: int) -> None:
        super().__init__(plan)
        self._at = version

    def add(self, records: Sequence[StepRecord]) -> bool:
        is_stopping = super().add(records)
        return is_stopping or records[-1].version >= self._at


def test_a_failure_of_one_rank_ends_all_with_its_error(tmp_path: Path):
    plan = training_plan(tmp_path)
    journal = begun(plan)
    run_replicas(plan, journal, 3, builders={2: Failing})
    with pytest.raises(ValueError, match=r"shard \d of a learner with a mistake"):
        journal.finish()


def test_a_rank_that_cannot_build_its_computation_ends_all(tmp_path: Path):
    def build():
        raise ValueError("a learner that cannot be built")

    plan = training_plan(tmp_path)
    journal = begun(plan)
    run_replicas(plan, journal, 2, builders={1: build})
    with pytest.raises(ValueError, match="cannot be built"):
        journal.finish()


def test_ranks_of_other_code_than_the_drivers_are_refused(tmp_path: Path):
    plan = training_plan(tmp_path)
    journal = begun(plan)
    run_replicas(plan, journal, 2, code="sources 0123456789ab, torch 1.0")
    with pytest.raises(ClusterError, match="runs other code than the run"):
        journal.finish()


def test_a_non_finite_gradient_of_one_rank_is_refused_and_counted_on_all(tmp_path: Path):
    plan = training_plan(tmp_path, build=partial(NotFinite, frozenset({2, 6}), index=1))
    journal = begun(plan)
    run_replicas(plan, journal, 2)
    last = journal.finish()
    assert last.num_refused == 2 and np.isfinite(last.parameters).all()
    assert [record.refused for record in journal.read(0)] == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]


def test_too_many_refused_steps_end_the_run_with_the_checkpoint_before(tmp_path: Path):
    plan = training_plan(tmp_path, build=partial(NotFinite, frozenset({6, 7}), index=1), max_refused_steps=1)
    journal = begun(plan)
    run_replicas(plan, journal, 2)
    with pytest.raises(RefusedSteps, match="meta-step 7"):
        journal.finish()
    assert checkpoints.load_newest(tmp_path).version == 5


def test_ranks_that_drift_apart_are_found_before_a_checkpoint_is_written(tmp_path: Path):
    plan = training_plan(tmp_path)
    journal = begun(plan)
    run_replicas(plan, journal, 2, ring=Drifting)
    with pytest.raises(ClusterError, match="hold different parameters after meta-step 5"):
        journal.finish()
    assert checkpoints.load_newest(tmp_path).version == 0


def test_ranks_that_start_again_go_on_from_the_checkpoint_and_no_step_is_seen_twice(tmp_path: Path):
    expected, _ = by_the_server(tmp_path / "whole")
    plan = training_plan(tmp_path / "ranks", num_workers=1)
    journal = begun(plan)
    seen: list[StepRecord] = []
    with pytest.raises(ConnectionError):
        run_replicas(plan, journal, 1, ring=lambda meeting, index: LostAt(meeting, index, calls=2 * 7 + 1))
    seen += journal.read(0)
    assert [record.version for record in seen] == list(range(1, 8))
    run_replicas(plan, journal, 1)
    seen += journal.read(7)
    assert [record.version for record in seen] == list(range(1, 13))
    assert journal.finish().parameters.tobytes() == expected.parameters.tobytes()


class LostAt(ThreadRing):
    """Its peers are gone after `calls` collectives: two a meta-step, one a checkpoint."""

    def __init__(self, meeting: Meeting, index: int, calls: int) -> None:
        super().__init__(meeting, index)
        self._left = calls

    def gather(self, value):
        self._left -= 1
        if self._left < 0:
            raise ConnectionError("connection closed by peer")
        return super().gather(value)


def test_another_seed_gives_another_result_on_ranks_too(tmp_path: Path):
    plan = training_plan(tmp_path / "0")
    journal = begun(plan)
    run_replicas(plan, journal, 2)
    other = training_plan(tmp_path / "1", build=partial(build_gradient, 1))
    another = begun(other)
    run_replicas(other, another, 2)
    assert journal.finish().parameters.tobytes() != another.finish().parameters.tobytes()
