import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bystanders import ignore
from fake_learner import training_plan

from cluster.errors import CheckpointError
from cluster.lock import NAME, Held, lease, locked
from cluster.plan import StepRecord
from cluster.storage import Storage, open_storage
from cluster.training import run_meta_training

HOLDER = """
import sys, time
from cluster.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_on_a_folder_is_refused_and_changes_nothing(tmp_path: Path):
    refused: list[str] = []

    def second(record: StepRecord) -> None:
        if record.version == 7:
            before = sorted(tmp_path.iterdir())
            with pytest.raises(CheckpointError, match="is being written by another run") as raised:
                run_meta_training(training_plan(tmp_path, resume=True), ignore, lambda: False)
            refused.append(str(raised.value))
            assert sorted(tmp_path.iterdir()) == before

    run_meta_training(training_plan(tmp_path), second, lambda: False)
    assert len(refused) == 1 and f"process {os.getpid()} on " in refused[0]
    assert not (tmp_path / NAME).exists()
    run_meta_training(training_plan(tmp_path, resume=True), ignore, lambda: False)


def test_a_killed_run_leaves_no_lock_behind(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=f"process {holder.pid} on "), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / NAME).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()


def test_a_lock_that_goes_while_it_is_looked_at_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def end_of_the_other(descriptor: int, operation: int) -> None:
        (tmp_path / NAME).unlink()
        raise BlockingIOError

    monkeypatch.setattr("cluster.lock.fcntl.flock", end_of_the_other)
    with pytest.raises(CheckpointError, match=r"is being written by another run \(another process\)"), locked(tmp_path):
        pass


def test_what_was_made_for_the_lock_alone_goes_with_it(tmp_path: Path):
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / NAME).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_hold_a_lock_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be used"), locked(tmp_path / "file"):
        pass


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> Storage:
    return open_storage(f"memory://locks/{request.node.name}")


def sleepless(seconds: float) -> None:
    pass


def test_a_lease_that_is_renewed_refuses_a_second_run(storage: Storage):
    waits: list[float] = []

    def renew(seconds: float) -> None:
        waits.append(seconds)
        storage.write(NAME, b'{"owner": "a", "host": "there", "process": 7, "beat": 2}')

    storage.write(NAME, b'{"owner": "a", "host": "there", "process": 7, "beat": 1}')
    with (
        pytest.raises(CheckpointError, match=r"another run \(process 7 on there\)"),
        lease(storage, Held("x"), 60, renew),
    ):
        pass
    assert waits == [60] and json.loads(storage.read(NAME))["beat"] == 2


def test_a_lease_that_nobody_renews_is_taken_over_after_four_beats(storage: Storage):
    storage.write(NAME, b'{"owner": "dead", "host": "there", "process": 7, "beat": 1}')
    slept: list[float] = []
    with lease(storage, Held("x"), 60, slept.append):
        assert json.loads(storage.read(NAME))["process"] == os.getpid()
    assert slept == [60, 60, 60, 60, 12]
    assert storage.names() == []


def test_of_two_that_find_no_lease_the_last_to_write_has_it(storage: Storage):
    def other_comes(seconds: float) -> None:
        storage.write(NAME, b'{"owner": "b", "host": "there", "process": 8, "beat": 0}')

    with pytest.raises(CheckpointError, match="process 8 on there"), lease(storage, Held("x"), 60, other_comes):
        pass


def test_a_run_whose_lease_was_taken_over_ends(storage: Storage):
    held = Held("x")
    lost = threading.Event()

    class Watched(Held):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "is_lost" and value:
                lost.set()

    held = Watched("x")
    with lease(storage, held, 0.01, sleepless):
        held.require()
        storage.write(NAME, b'{"owner": "b", "host": "there", "process": 8, "beat": 0}')
        assert lost.wait(timeout=60)
        with pytest.raises(CheckpointError, match="another run took x over"):
            held.require()
    assert json.loads(storage.read(NAME))["owner"] == "b"


def test_a_lease_is_rewritten_while_it_is_held(storage: Storage):
    give_up_at = time.monotonic() + 60
    beat = 0
    with lease(storage, Held("x"), 0.01, sleepless):
        while beat < 2 and time.monotonic() < give_up_at:
            beat = json.loads(storage.read(NAME) or b'{"beat": 0}')["beat"]
    assert beat >= 2
