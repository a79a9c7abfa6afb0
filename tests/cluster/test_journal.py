from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_learner import training_plan

from cluster import checkpoint as checkpoints
from cluster.checkpoint import Checkpoint
from cluster.errors import CheckpointError, ClusterError
from cluster.journal import Journal
from cluster.plan import StepRecord


def new_journal(folder: Path, num_workers: int = 2) -> tuple[Journal, Checkpoint]:
    plan = training_plan(folder, num_workers=num_workers)
    start = Checkpoint(0, plan.parameters, plan.parameter_shapes, plan.optimizer.name, {}, "")
    checkpoints.save(start, folder, 3)
    return Journal(plan.server), start


def record(version: int, nll: float = 0.0) -> StepRecord:
    return StepRecord(version, 1, nll, nll, 0.0, {}, 1.0, 0.1, 1.0, 1.0, 1.0, 0.0, 0.0, 0, 0)


def test_a_step_that_is_repeated_keeps_its_first_record(tmp_path: Path):
    journal, _ = new_journal(tmp_path)
    assert not journal.add([record(1, 0.1), record(2, 0.2)])
    assert not journal.add([record(2, 9.0), record(3, 0.3)])
    assert [(found.version, found.nll) for found in journal.read(0)] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert [found.version for found in journal.read(2)] == [3]


def test_a_checkpoint_is_on_disk_and_what_a_restart_goes_on_from(tmp_path: Path):
    journal, start = new_journal(tmp_path)
    begun = journal.begin()
    assert begun is not None and begun.version == 0
    later = Checkpoint(4, start.parameters + np.float32(1), start.parameter_shapes, "adam", {}, "")
    assert not journal.save(later)
    again = journal.begin()
    assert again is not None and again.version == checkpoints.load_newest(tmp_path).version == 4
    assert journal.finish().parameters.tobytes() == later.parameters.tobytes()


def test_a_record_says_how_often_the_ranks_were_started_again(tmp_path: Path):
    journal, _ = new_journal(tmp_path)
    journal.begin()
    journal.add([record(1)])
    journal.begin()
    journal.add([record(2)])
    assert [found.restarts for found in journal.read(0)] == [0, 1]


def test_a_checkpoint_that_cannot_be_written_stops_the_run(tmp_path: Path):
    journal, start = new_journal(tmp_path / "folder")
    for path in (tmp_path / "folder").iterdir():
        path.unlink()
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").touch()
    assert journal.save(start)
    assert journal.begin() is None
    with pytest.raises(CheckpointError, match="could not be written"):
        journal.finish()


def test_ranks_that_die_without_a_step_in_between_are_given_up(tmp_path: Path):
    journal, _ = new_journal(tmp_path, num_workers=1)
    for _ in range(4):
        assert journal.begin() is not None
    journal.add([record(1)])
    for _ in range(3):
        assert journal.begin() is not None
    assert journal.begin() is None
    with pytest.raises(ClusterError, match=r"after meta-step 1, and 4 deaths came with no meta-step done in between"):
        journal.finish()


def test_meta_steps_that_are_done_again_count_but_not_for_ever(tmp_path: Path):
    journal, _ = new_journal(tmp_path, num_workers=1)
    journal.begin()
    journal.add([record(1), record(2)])
    for _ in range(30):
        assert journal.begin() is not None
        journal.add([record(1)])
    assert journal.begin() is None
    with pytest.raises(ClusterError, match=r"after meta-step 2, and 31 deaths came with no new meta-step"):
        journal.finish()


def test_workers_that_can_have_nothing_to_do_add_no_lives(tmp_path: Path):
    plan = replace(training_plan(tmp_path, num_workers=50), meta_batch=2, num_shards=1, strategy="collective")
    checkpoints.save(Checkpoint(0, plan.parameters, plan.parameter_shapes, plan.optimizer.name, {}, ""), tmp_path, 3)
    journal = Journal(plan.server)
    assert [journal.begin() is not None for _ in range(8)] == 7 * [True] + [False]


def test_a_stop_reaches_the_ranks_with_the_next_answer(tmp_path: Path):
    journal, _ = new_journal(tmp_path)
    assert not journal.add([record(1)])
    journal.stop()
    assert journal.add([record(2)]) and journal.begin() is None
    assert journal.finish().version == 0


def test_the_first_error_is_the_one_that_is_raised(tmp_path: Path):
    journal, _ = new_journal(tmp_path)
    journal.fail(ValueError("the cause"))
    journal.fail(RuntimeError("what followed"))
    with pytest.raises(ValueError, match="the cause"):
        journal.finish()
