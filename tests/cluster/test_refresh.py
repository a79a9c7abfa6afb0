"""Refreshes of a learner's state in this process: when they happen, and that nothing else changes them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stateful_learner import (
    NUM_SURVEYED,
    MovesCentres,
    StatefulLearner,
    build_stateful,
    refreshed_plan,
)

from cluster.plan import StepRecord, TrainingResult
from cluster.shards import plan
from cluster.survey import initial_state
from cluster.training import run_meta_training


def never() -> bool:
    return False


def ignore(record: StepRecord) -> None:
    pass


def same(one: TrainingResult, other: TrainingResult) -> bool:
    """Whether two runs ended with the same parameters and state."""
    assert one.mode_state is not None and other.mode_state is not None
    return (one.params_sha256, one.mode_state.tobytes()) == (other.params_sha256, other.mode_state.tobytes())


@pytest.mark.parametrize(("every", "lag"), [(4, 2), (4, 4), (3, 1), (1, 1)])
def test_the_run_equals_a_plain_loop_that_refreshes(tmp_path: Path, every: int, lag: int):
    run = refreshed_plan(tmp_path, every=every, lag=lag)
    result = run_meta_training(run, ignore, never)
    learner, parameters = StatefulLearner(), run.parameters
    state, waiting = initial_state(learner), {}
    whole = run_meta_training  # the loop below takes the optimiser's steps by runs of one more meta-step each
    assert run.refresh is not None
    for version in range(run.num_steps):
        state = waiting.pop(version, state)
        if version % every == 0 and version + lag < run.num_steps:
            compute = build_stateful()
            compute.adopt(state)
            shards = [s._replace(num_surveyed=NUM_SURVEYED) for s in plan(version, run.meta_batch, run.num_shards)]
            rows = [compute(parameters, shard).survey for shard in shards]
            joined = np.concatenate([row for row in rows if row is not None and len(row)])
            waiting[version + lag] = MovesCentres()(version, parameters, state, joined).state
        folder = tmp_path / "loop"
        last = whole(
            replace(run, checkpoint_dir=folder, resume=version > 0), ignore, lambda: True
        )  # stops after one meta-step
        assert last.mode_state is not None and last.mode_state.tobytes() == state.tobytes(), version
        parameters = last.parameters
    assert result.parameters.tobytes() == parameters.tobytes()
    assert result.mode_state is not None and result.mode_state.tobytes() == state.tobytes()
