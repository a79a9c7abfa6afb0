"""Refreshes of a learner's state in this process: when they happen, and that a resume changes none."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bystanders import ignore, never
from fake_learner import FakeSource, HeldUp, build_gradient
from stateful_learner import (
    NUM_SURVEYED,
    FailingRefresh,
    MovesCentres,
    StatefulLearner,
    build_stateful,
    build_stateful_share,
    refreshed_plan,
)

from cluster import checkpoint as checkpoints
from cluster.aggregation import AggregationPlan
from cluster.errors import CheckpointError, UserError
from cluster.gradient import MetaGradient
from cluster.group_plan import GroupPlan
from cluster.plan import StepRecord, TrainingPlan
from cluster.policies import Asynchronous, Stale
from cluster.refresh import Refreshed, Refreshes
from cluster.shards import plan
from cluster.survey import initial_state
from cluster.training import run_meta_training


def surveyed(run: TrainingPlan, version: int, parameters: np.ndarray, state: np.ndarray) -> np.ndarray:
    """The survey that meta-step `version` would make."""
    compute = build_stateful()
    compute.adopt(state)
    shards = [shard._replace(num_surveyed=NUM_SURVEYED) for shard in plan(version, run.meta_batch, run.num_shards)]
    rows = [compute(parameters, shard).survey for shard in shards]
    return np.concatenate([row for row in rows if row is not None])


@pytest.mark.parametrize(("every", "lag"), [(4, 2), (4, 4), (3, 1), (1, 1)])
def test_a_run_stopped_after_every_meta_step_has_the_states_of_a_plain_loop_and_the_bits_of_a_whole_run(
    tmp_path: Path, every: int, lag: int
):
    make = partial(refreshed_plan, every=every, lag=lag)
    whole = run_meta_training(make(tmp_path / "whole"), ignore, never)
    run = make(tmp_path / "steps")
    state, parameters, waiting = initial_state(StatefulLearner()), run.parameters, {}
    for version in range(run.num_steps):
        state = waiting.pop(version, state)
        if version % every == 0:
            rows = surveyed(run, version, parameters, state)
            waiting[version + lag] = MovesCentres()(version, parameters, state, rows).state
        last = run_meta_training(replace(run, resume=version > 0), ignore, lambda: True)
        assert last.mode_state is not None and last.mode_state.tobytes() == state.tobytes()
        parameters, pending = last.parameters, checkpoints.load(last.checkpoint).pending
        written = {} if pending is None else {pending.version: pending.state.tolist()}
        assert written == {when: new.tolist() for when, new in waiting.items()}
    assert parameters.tobytes() == whole.parameters.tobytes()
    assert whole.mode_state is not None and state.tobytes() == whole.mode_state.tobytes()


def test_a_refresh_is_on_the_record_of_the_meta_step_that_it_was_adopted_for_and_of_no_other(tmp_path: Path):
    records: list[StepRecord] = []
    run_meta_training(refreshed_plan(tmp_path), records.append, lambda: len(records) == 6)
    run_meta_training(refreshed_plan(tmp_path, resume=True), records.append, never)
    assert {record.version: record.refresh["version"] for record in records if record.refresh} == {3: 0, 7: 4, 11: 8}


def test_what_would_be_adopted_after_the_last_meta_step_is_surveyed_and_waits_in_the_last_checkpoint(tmp_path: Path):
    counts = {num_steps: count_refreshes(tmp_path / str(num_steps), num_steps) for num_steps in (2, 4, 5, 6, 7, 10)}
    assert counts == {2: 1, 4: 1, 5: 2, 6: 2, 7: 2, 10: 3}
    pending = {num_steps: checkpoints.load_newest(tmp_path / str(num_steps)).pending for num_steps in counts}
    whens = {num_steps: None if one is None else one.version for num_steps, one in pending.items()}
    assert whens == {2: 2, 4: None, 5: 6, 6: 6, 7: None, 10: 10}


@pytest.mark.parametrize("first", [1, 4, 5, 6, 7, 13])
def test_a_run_that_is_given_more_meta_steps_has_the_bits_of_one_that_had_them_from_the_beginning(
    tmp_path: Path, first: int
):
    whole = run_meta_training(without_decay(refreshed_plan(tmp_path / "whole")), ignore, never)
    run_meta_training(without_decay(refreshed_plan(tmp_path / "parts", num_steps=first)), ignore, never)
    last = run_meta_training(without_decay(refreshed_plan(tmp_path / "parts", resume=True)), ignore, never)
    assert last.mode_state is not None and whole.mode_state is not None
    assert (last.params_sha256, last.mode_state.tobytes()) == (whole.params_sha256, whole.mode_state.tobytes())


def without_decay(plan: TrainingPlan) -> TrainingPlan:
    """The learning rate is then the same however many meta-steps there are."""
    return replace(plan, optimizer=replace(plan.optimizer, schedule="constant"))


def count_refreshes(folder: Path, num_steps: int) -> int:
    num = 0

    class Counts(MovesCentres):
        def __call__(self, version: int, parameters: np.ndarray, state: np.ndarray, survey: np.ndarray) -> Refreshed:
            nonlocal num
            num += 1
            assert survey.shape == (NUM_SURVEYED, 2)
            return super().__call__(version, parameters, state, survey)

    run_meta_training(refreshed_plan(folder, num_steps=num_steps, refreshes=Counts), ignore, never)
    return num


def test_the_state_matters_and_so_does_when_it_is_adopted(tmp_path: Path):
    settings = [(4, 2), (4, 3), (3, 2), (13, 13)]
    runs = [refreshed_plan(tmp_path / f"{every} {lag}", every=every, lag=lag) for every, lag in settings]
    assert len({run_meta_training(run, ignore, never).params_sha256 for run in runs}) == len(settings)


def with_refresh(plan: TrainingPlan, **changes: int | np.ndarray) -> TrainingPlan:
    assert plan.refresh is not None
    return replace(plan, refresh=replace(plan.refresh, **changes))


REFUSED: dict[str, tuple[Callable[[TrainingPlan], TrainingPlan], str]] = {
    "no interval": (lambda plan: with_refresh(plan, every=0), "refresh_every=0 must be at least 1"),
    "no reservoir": (lambda plan: with_refresh(plan, num_tasks=0), "num_reservoir=0 must be at least 1"),
    "no lag": (lambda plan: with_refresh(plan, lag=0), r"refresh_lag=0 must lie in 1\.\.refresh_every=4"),
    "a long lag": (lambda plan: with_refresh(plan, lag=5), r"refresh_lag=5 must lie in 1\.\.refresh_every=4"),
    "float64": (lambda plan: with_refresh(plan, state=np.zeros(9)), "the initial state is float64"),
    "stale": (lambda plan: replace(plan, aggregation=AggregationPlan(Stale(1))), "policy=Stale has .*policy.kind sync"),
    "async": (
        lambda plan: replace(plan, aggregation=AggregationPlan(Asynchronous())),
        "policy=Asynchronous has .*kind sync",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_refreshed_exactly_is_refused_with_the_numbers(tmp_path: Path, name: str):
    change, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        change(refreshed_plan(tmp_path))


class Gives:
    """The same state whatever happens."""

    def __init__(self, state: np.ndarray) -> None:
        self.state = state

    def __call__(self, version: int, parameters: np.ndarray, state: np.ndarray, survey: np.ndarray) -> Refreshed:
        return Refreshed(self.state, {})


WRONG: dict[str, tuple[Callable[[], Refreshes], type[Exception], str]] = {
    "a mistake": (FailingRefresh, ValueError, "the refresh after meta-step 4 has a mistake"),
    "short": (partial(Gives, np.zeros(8, np.float32)), UserError, r"meta-step 4 gave .* \(8,\), .* of shape \(9,\)"),
    "float64": (partial(Gives, np.zeros(9)), UserError, "meta-step 4 gave a state of float64"),
    "NaN": (partial(Gives, np.full(9, np.nan, np.float32)), UserError, "meta-step 4 gave .* not finite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_refresh_that_goes_wrong_ends_the_run_which_can_be_resumed(tmp_path: Path, name: str):
    refreshes, error, message = WRONG[name]
    run_meta_training(refreshed_plan(tmp_path), lambda record: None, stop_at(tmp_path, 4))
    with pytest.raises(error, match=message):
        run_meta_training(refreshed_plan(tmp_path, resume=True, refreshes=refreshes), ignore, never)
    whole = run_meta_training(refreshed_plan(tmp_path / "whole"), ignore, never)
    again = run_meta_training(refreshed_plan(tmp_path, resume=True), ignore, never)
    assert again.params_sha256 == whole.params_sha256


def stop_at(folder: Path, version: int) -> Callable[[], bool]:
    """Asked after every meta-step, it says yes after so many."""
    count = iter(range(1, version + 1))
    return lambda: next(count) == version


def test_a_learner_without_a_state_cannot_be_refreshed(tmp_path: Path):
    with pytest.raises(TypeError, match=r"FakeLearner has no state: its modes need a method state\(\)"):
        run_meta_training(refreshed_plan(tmp_path, build=build_gradient), ignore, never)
    with pytest.raises(TypeError, match=r"HeldUp has no state to refresh: give it a method adopt\(state\)"):
        build = partial(HeldUp, -1, tmp_path / "begun", tmp_path / "released")
        run_meta_training(refreshed_plan(tmp_path / "2", build=build), ignore, never)


def test_a_checkpoint_of_other_modes_is_refused_saying_how_they_differ(tmp_path: Path):
    run = refreshed_plan(tmp_path)
    run_meta_training(run, ignore, never)
    with pytest.raises(CheckpointError, match="their state is 9 numbers there and 0 in this run"):
        run_meta_training(replace(run, resume=True, refresh=None), ignore, never)
    with pytest.raises(CheckpointError, match="their state is 9 numbers there and 4 in this run"):
        run_meta_training(with_refresh(replace(run, resume=True), state=np.zeros(4, np.float32)), ignore, never)


@pytest.mark.parametrize(
    ("every", "lag", "waits"),
    [(2, 1, "one for meta-step 5"), (4, 3, "one for meta-step 7"), (5, 2, "none waiting there")],
)
def test_a_checkpoint_whose_waiting_refresh_would_be_lost_is_refused(tmp_path: Path, every: int, lag: int, waits: str):
    run_meta_training(refreshed_plan(tmp_path), ignore, stop_at(tmp_path, 5))
    resumed = refreshed_plan(tmp_path, resume=True)
    message = f"meta-step 6, but with refresh_every={every} and refresh_lag={lag} this run has {waits}: give the sett"
    with pytest.raises(CheckpointError, match=message):
        run_meta_training(with_refresh(resumed, every=every, lag=lag), ignore, never)


def test_every_state_is_adopted_once(tmp_path: Path):
    adopted: list[bytes] = []

    class Notes(MetaGradient):
        def adopt(self, state: np.ndarray) -> None:
            adopted.append(state.tobytes())
            super().adopt(state)

    whole = refreshed_plan(tmp_path, build=lambda: Notes(StatefulLearner(), FakeSource(), 0))
    last = run_meta_training(whole, ignore, never)
    assert last.mode_state is not None
    assert len(adopted) == len(set(adopted)) == 4 and adopted[-1] == last.mode_state.tobytes()


def test_a_group_adopts_and_surveys_as_one_process(tmp_path: Path):
    whole = run_meta_training(refreshed_plan(tmp_path / "one"), ignore, never)
    run = replace(refreshed_plan(tmp_path / "group"), group=GroupPlan(2, build_stateful_share))
    assert run_meta_training(run, ignore, never).params_sha256 == whole.params_sha256
