from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import cast

import numpy as np
from fake_learner import build_gradient, training_plan

from cluster.checkpoint import Checkpoint
from cluster.plan import StepRecord
from cluster.server_state import ServerState
from cluster.shards import Shard, ShardReport

PLAN = replace(training_plan(Path("unused"), num_workers=2).server)
COMPUTE = build_gradient()


def new_state() -> ServerState:
    """A server at the beginning of a run, with a clock that ticks once a reading."""
    ticks = count()
    parameters = training_plan(Path("unused")).parameters
    start = Checkpoint(0, parameters, PLAN.parameter_shapes, "adam", {})
    return ServerState(PLAN, start, clock=lambda: float(next(ticks)))


def reports(state: ServerState, shards: tuple[Shard, ...]) -> list[ShardReport]:
    return [COMPUTE(state.parameters, shard) for shard in shards]


def whole_step(state: ServerState, worker_id: str = "a") -> StepRecord:
    while True:
        for report in reports(state, state.assign(worker_id)):
            record = state.accept(worker_id, report)
            if record is not None:
                return record


def test_a_shard_reported_twice_changes_nothing():
    once, twice = new_state(), new_state()
    whole_step(once)
    shards = twice.assign("a") + twice.assign("b") + twice.assign("a") + twice.assign("b")
    assert [shard.index for shard in shards] == [0, 1, 2, 3]
    gathered = reports(twice, shards)
    for report in [gathered[2], gathered[0], gathered[2], gathered[0], gathered[1]]:
        assert twice.accept("b", report) is None
    assert twice.accept("a", gathered[3]) is not None
    assert twice.accept("b", gathered[3]) is None and twice.version == 1
    assert twice.parameters.tobytes() == once.parameters.tobytes()


def test_a_dead_workers_shards_go_to_another_and_to_it_no_more():
    undisturbed, state = new_state(), new_state()
    whole_step(undisturbed)
    lost = state.assign("dead")
    assert state.release("dead") == len(lost) == 1
    assert state.assign("dead") == ()
    whole_step(state, "b")
    assert state.parameters.tobytes() == undisturbed.parameters.tobytes()


def test_the_late_report_of_a_worker_thought_dead_counts_once():
    undisturbed, state = new_state(), new_state()
    whole_step(undisturbed)
    late = reports(state, state.assign("slow"))[0]
    state.release("slow")
    state.accept("slow", late)
    assert all(shard.index != late.shard.index for shard in state.assign("b"))
    state.release("b")
    whole_step(state, "c")
    assert state.parameters.tobytes() == undisturbed.parameters.tobytes()


def test_the_record_splits_the_step_into_compute_and_the_rest():
    state = new_state()
    shards = [shard for worker in "abab" for shard in state.assign(worker)]
    record = None
    for worker, report in zip("abab", reports(state, tuple(shards)), strict=True):
        record = state.accept(worker, report._replace(compute_s=0.2 if worker == "a" else 0.3))
    assert record is not None
    np.testing.assert_allclose((record.step_s, record.compute_s, record.communication_s), (1.0, 0.6, 0.4))
    assert record.version == 1 and record.tasks_per_s == PLAN.meta_batch
    assert record.learning_rate == PLAN.optimizer.learning_rate_at(0, PLAN.num_steps)


def test_a_refused_step_changes_neither_parameters_nor_optimizer():
    state = new_state()
    whole_step(state)
    before = state.checkpoint()
    bad = reports(state, tuple(s for w in "abab" for s in state.assign(w)))
    bad[2].gradient[0] = np.inf
    for report in bad:
        state.accept("a", report)
    after = state.checkpoint()
    assert after.version == 2 and after.num_refused == 1 and after.num_tasks == 2 * PLAN.meta_batch
    np.testing.assert_array_equal(after.parameters, before.parameters)
    moments, moments_before = (cast(dict, kept.optimizer_state["state"])[0]["exp_avg"] for kept in (after, before))
    np.testing.assert_array_equal(moments, moments_before)


def test_a_checkpoint_is_a_copy_that_later_steps_do_not_touch():
    state = new_state()
    whole_step(state)
    kept = state.checkpoint()
    other = ServerState(PLAN, kept)
    whole_step(state)
    whole_step(other)
    assert other.parameters.tobytes() == state.parameters.tobytes()
    assert ServerState(PLAN, kept).parameters.tobytes() != state.parameters.tobytes()


def test_nothing_is_assigned_when_the_run_is_done():
    state = new_state()
    for _ in range(PLAN.num_steps):
        whole_step(state)
    assert state.is_done and state.assign("a") == () and state.is_checkpoint_due
