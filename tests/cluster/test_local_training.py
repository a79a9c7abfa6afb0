"""The in-process run: resume, refusal, interruption and bad folders, on the code that the Ray run shares."""

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from bystanders import ignore, never
from fake_learner import Failing, FakeLearner, FakeSource, NotFinite, build_gradient, training_plan
from torch.nn.utils import parameters_to_vector

from cluster import checkpoint as checkpoints
from cluster.errors import CheckpointError, RefusedSteps, UserError
from cluster.plan import StepRecord
from cluster.shards import ComputesMetaGradient, Shard, ShardReport
from cluster.training import params_sha256, run_meta_training
from mcb.randomness import fold_key


def test_the_run_equals_a_plain_torch_loop(tmp_path: Path):
    result = run_meta_training(training_plan(tmp_path, num_steps=12), ignore, never)
    learner, source = FakeLearner(), FakeSource()
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
    for version in range(12):
        indices = torch.arange(10 * version, 10 * (version + 1))
        tasks = source.sample(fold_key(0, "train"), indices)
        losses = learner.losses(tasks, learner.noise(fold_key(0, "noise"), indices))
        optimizer.zero_grad()
        losses.loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 0.5)
        rate = 1e-2 * ((version + 1) / 3 if version < 3 else 0.5 * (1 + np.cos(np.pi * (version - 3) / 9)))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    expected = parameters_to_vector(learner.parameters()).detach().numpy()
    np.testing.assert_allclose(result.parameters, expected, rtol=2e-5, atol=1e-6)
    assert not result.interrupted and result.num_steps == 12 and result.num_tasks == 120


def test_every_step_is_seen_once_and_in_order(tmp_path: Path):
    records: list[StepRecord] = []
    result = run_meta_training(training_plan(tmp_path), records.append, never)
    assert [record.version for record in records] == list(range(1, 13))
    assert all(record.per_mode["line"]["count"] == 5 for record in records)
    overall = np.mean([mode["nll"] for mode in records[3].per_mode.values()])
    np.testing.assert_allclose(records[3].nll, overall, rtol=1e-12)
    np.testing.assert_allclose(records[3].nll, 0.5 * records[3].squared_error, rtol=1e-7)
    assert result.params_sha256 == params_sha256(checkpoints.load(result.checkpoint).parameters)
    np.testing.assert_allclose(result.train_seconds, sum(record.step_s for record in records))


@pytest.mark.parametrize("stop_after", [1, 5, 7])
def test_a_resumed_run_has_the_bits_of_one_never_stopped(tmp_path: Path, stop_after: int):
    whole = run_meta_training(training_plan(tmp_path / "whole"), ignore, never)
    records: list[StepRecord] = []
    first = run_meta_training(training_plan(tmp_path / "a"), records.append, lambda: len(records) == stop_after)
    assert first.interrupted and first.num_steps == stop_after
    assert first.params_sha256 != whole.params_sha256
    second = run_meta_training(training_plan(tmp_path / "a", resume=True), records.append, never)
    assert second.params_sha256 == whole.params_sha256 and not second.interrupted
    assert [record.version for record in records] == list(range(1, 13))
    assert second.num_tasks == whole.num_tasks


def test_resuming_a_finished_run_gives_its_result(tmp_path: Path):
    whole = run_meta_training(training_plan(tmp_path), ignore, never)
    again = run_meta_training(training_plan(tmp_path, resume=True, build=Failing), ignore, never)
    assert again.params_sha256 == whole.params_sha256 and again.checkpoint == whole.checkpoint


def test_the_newest_checkpoint_damaged_the_one_before_gives_the_same_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    whole = run_meta_training(training_plan(tmp_path), ignore, never)
    newest, before = map(Path, checkpoints.paths(tmp_path)[:2])
    newest.write_bytes(newest.read_bytes()[:-100])
    records: list[StepRecord] = []
    again = run_meta_training(training_plan(tmp_path, resume=True), records.append, never)
    assert records[0].version == 11 and before.name == "checkpoint-00000010.mcb"
    assert again.params_sha256 == whole.params_sha256
    assert newest.name in caplog.text and "damaged" in caplog.text


def test_a_run_that_passes_a_damaged_checkpoint_over_names_the_one_it_saved(tmp_path: Path):
    run_meta_training(training_plan(tmp_path), ignore, never)
    newest = Path(checkpoints.paths(tmp_path)[0])
    newest.write_bytes(newest.read_bytes()[:-100])
    plan = replace(training_plan(tmp_path, resume=True), checkpoint_keep=1)
    result = run_meta_training(plan, ignore, lambda: True)
    assert result.interrupted and checkpoints.load(result.checkpoint).version == result.num_steps == 11
    assert checkpoints.paths(tmp_path) == [result.checkpoint]
    assert run_meta_training(plan, ignore, never).num_steps == 12


def test_a_non_finite_gradient_is_refused_and_counted_and_training_goes_on(tmp_path: Path):
    build = partial(NotFinite, frozenset({2, 6}), index=1)
    records: list[StepRecord] = []
    result = run_meta_training(training_plan(tmp_path, build=build), records.append, never)
    assert result.num_steps == 12 and result.num_refused == 2
    assert np.isfinite(result.parameters).all()
    assert [record.refused for record in records] == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert not np.isfinite(records[2].gradient_norm) and np.isfinite(records[3].gradient_norm)


def test_too_many_refused_steps_stop_the_run_naming_step_and_shard(tmp_path: Path):
    build = partial(NotFinite, frozenset({2, 6, 9}), index=3)
    with pytest.raises(RefusedSteps, match=r"meta-step 9 .* shard 3 \(tasks 97 to 99\); 3 steps .*max_refused_steps=2"):
        run_meta_training(training_plan(tmp_path, build=build, max_refused_steps=2), ignore, never)
    assert checkpoints.load_newest(tmp_path).version == 5


def test_refused_steps_before_a_resume_count(tmp_path: Path):
    build = partial(NotFinite, frozenset({1, 6}), index=0)
    plan = training_plan(tmp_path, build=build, max_refused_steps=1)
    records: list[StepRecord] = []
    run_meta_training(plan, records.append, lambda: len(records) == 4)
    with pytest.raises(RefusedSteps, match=r"meta-step 6 .* 2 steps were refused"):
        run_meta_training(replace(plan, resume=True), records.append, never)


def test_a_full_disk_stops_the_run_and_leaves_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write_then_fill(record: StepRecord) -> None:
        if record.version == 7:
            monkeypatch.setattr(os, "write", full)

    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, os.strerror(28))

    with pytest.raises(CheckpointError, match=r"meta-step 10 could not be written .*No space left on device"):
        run_meta_training(training_plan(tmp_path), write_then_fill, never)
    monkeypatch.undo()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-00000000.mcb", "checkpoint-00000005.mcb"]
    whole = run_meta_training(training_plan(tmp_path / "whole"), ignore, never)
    assert run_meta_training(training_plan(tmp_path, resume=True), ignore, never).params_sha256 == whole.params_sha256


def test_sigint_in_this_process_stops_after_the_step(tmp_path: Path):
    def interrupt(record: StepRecord) -> None:
        if record.version == 4:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    result = run_meta_training(training_plan(tmp_path), interrupt, never)
    assert result.interrupted and result.num_steps == 4
    assert checkpoints.load_newest(tmp_path).version == 4
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_sigint_is_a_keyboard_interrupt(tmp_path: Path):
    def interrupt(record: StepRecord) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_meta_training(training_plan(tmp_path), interrupt, never)


def test_a_new_run_refuses_a_folder_with_checkpoints(tmp_path: Path):
    run_meta_training(training_plan(tmp_path), ignore, never)
    with pytest.raises(CheckpointError, match="already holds checkpoints"):
        run_meta_training(training_plan(tmp_path), ignore, never)


def test_resume_without_a_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        run_meta_training(training_plan(tmp_path / "none", resume=True), ignore, never)


def test_fewer_steps_than_done_are_refused(tmp_path: Path):
    run_meta_training(training_plan(tmp_path), ignore, never)
    with pytest.raises(UserError, match="num_steps=3 must be at least 12"):
        run_meta_training(training_plan(tmp_path, resume=True, num_steps=3), ignore, never)


def test_a_run_computes_with_its_own_number_of_threads(tmp_path: Path):
    seen: list[int] = []

    def build() -> ComputesMetaGradient:
        compute = build_gradient()

        def count(parameters: np.ndarray, shard: Shard) -> ShardReport:
            seen.append(torch.get_num_threads())
            return compute(parameters, shard)

        return count

    torch.set_num_threads(1)
    run_meta_training(replace(training_plan(tmp_path, num_steps=1, build=build), threads_per_worker=2), ignore, never)
    assert set(seen) == {2} and torch.get_num_threads() == 1


def test_the_checkpoints_of_another_learner_are_refused(tmp_path: Path):
    run_meta_training(training_plan(tmp_path), ignore, never)
    plan = training_plan(tmp_path, resume=True)
    shapes = {("net.0.weights" if name == "net.0.weight" else name): s for name, s in plan.parameter_shapes.items()}
    with pytest.raises(CheckpointError, match=r"net.0.weights has shape none there"):
        run_meta_training(replace(plan, parameter_shapes=shapes), ignore, never)


def test_another_seed_gives_another_result(tmp_path: Path):
    one = run_meta_training(training_plan(tmp_path / "1"), ignore, never)
    two = run_meta_training(training_plan(tmp_path / "2", build=partial(build_gradient, 1)), ignore, never)
    assert one.params_sha256 != two.params_sha256
