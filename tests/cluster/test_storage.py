import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import numpy as np
import pytest
from bystanders import ignore, never
from fake_learner import training_plan

from cluster.checkpoint import load, load_newest, paths
from cluster.errors import CheckpointError
from cluster.plan import StepRecord
from cluster.storage import LocalFolder, RemoteFolder, local_copy, open_storage, split
from cluster.training import run_meta_training


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"memory://bucket/{request.node.name}"


def test_a_run_stopped_at_a_url_resumes_there_to_the_bits_of_a_local_one(tmp_path: Path, url: str):
    whole = run_meta_training(training_plan(tmp_path), ignore, never)
    records: list[StepRecord] = []
    run_meta_training(training_plan(url), records.append, lambda: len(records) == 7)
    resumed = run_meta_training(training_plan(url, resume=True), records.append, never)
    assert resumed.params_sha256 == whole.params_sha256
    assert [record.version for record in records] == list(range(1, 13))
    assert resumed.checkpoint == f"{url}/checkpoint-00000012.mcb"
    np.testing.assert_array_equal(load(resumed.checkpoint).parameters, whole.parameters)
    with local_copy(resumed.checkpoint) as copy:
        assert copy.name == "checkpoint-00000012.mcb"
        assert load(copy).version == 12


def test_a_url_keeps_the_newest_few_and_no_rest(tmp_path: Path, url: str):
    run_meta_training(training_plan(url, num_steps=32, checkpoint_every=10), ignore, never)
    assert sorted(open_storage(url).names()) == [f"checkpoint-000000{number}.mcb" for number in (20, 30, 32)]


def test_a_damaged_newest_at_a_url_is_reported_and_the_one_before_used(url: str, caplog: pytest.LogCaptureFixture):
    run_meta_training(training_plan(url), ignore, never)
    newest = paths(url)[0]
    open_storage(url).write("checkpoint-00000012.mcb", load_bytes(newest)[:-50])
    assert load_newest(url).version == 10
    assert newest in caplog.text and "damaged" in caplog.text


def load_bytes(location: str) -> bytes:
    with local_copy(location) as path:
        return path.read_bytes()


def test_file_urls_are_folders_of_this_machine(tmp_path: Path):
    run_meta_training(training_plan(f"file://{tmp_path}/run"), ignore, never)
    assert paths(tmp_path / "run")[0] == str(tmp_path / "run" / "checkpoint-00000012.mcb")


def test_of_two_that_write_the_same_file_at_once_neither_fails(url: str, monkeypatch: pytest.MonkeyPatch):
    memory = fsspec.get_filesystem_class("memory")
    move = memory.mv

    def after_the_other(self: object, *paths: str) -> None:
        monkeypatch.setattr(memory, "mv", move)
        RemoteFolder(url).write("x", b"other")
        move(self, *paths)

    monkeypatch.setattr(memory, "mv", after_the_other)
    RemoteFolder(url).write("x", b"mine")
    assert (open_storage(url).read("x"), open_storage(url).names()) == (b"mine", ["x"])


def test_of_two_that_write_the_same_file_here_at_once_neither_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    replace = os.replace

    def after_the_other(*paths: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        LocalFolder(tmp_path).write("x", b"other")
        replace(*paths)

    monkeypatch.setattr(os, "replace", after_the_other)
    LocalFolder(tmp_path).write("x", b"mine")
    assert (open_storage(tmp_path).read("x"), open_storage(tmp_path).names()) == (b"mine", ["x"])


OLD = datetime.now(UTC) - timedelta(hours=1)


def test_a_run_sweeps_away_what_a_writer_here_left_long_ago(tmp_path: Path):
    names = [f".{name}.0123456789abcdef.tmp" for name in ("checkpoint-00000009.mcb", "young", ".lock")]
    for name in (*names, ".of-another.tmp", "x.0123456789abcdef.tmp"):
        (tmp_path / name).touch()
        if "young" not in name:
            os.utime(tmp_path / name, (OLD.timestamp(), OLD.timestamp()))
    run_meta_training(training_plan(tmp_path, num_steps=1), ignore, never)
    left = {path.name for path in tmp_path.iterdir()} - {split(path)[1] for path in paths(tmp_path)}
    assert left == {names[1], ".of-another.tmp", "x.0123456789abcdef.tmp"}


def test_a_run_sweeps_away_what_a_writer_at_a_url_left_long_ago(url: str, monkeypatch: pytest.MonkeyPatch):
    memory = fsspec.get_filesystem_class("memory")
    ages = {"old": OLD, "young": datetime.now(UTC), "zoneless": OLD.replace(tzinfo=None)}
    for name in (*ages, "unknown"):
        memory().pipe_file(f"{url}/.{name}.0123456789abcdef.tmp", b"")

    def modified(self: object, path: str) -> datetime:
        name = path.rpartition("/")[2].split(".")[1]
        if name not in ages:
            raise NotImplementedError
        return ages[name]

    monkeypatch.setattr(memory, "modified", modified)
    run_meta_training(training_plan(url, num_steps=1), ignore, never)
    left = {name.split(".")[1] for name in open_storage(url).names() if name.endswith(".tmp")}
    assert left == {"young", "zoneless", "unknown"}


@pytest.mark.parametrize("url", ["s4://bucket/run", "nothing://x"])
def test_a_protocol_that_is_not_there_is_one_clear_error(url: str):
    with pytest.raises(CheckpointError, match=rf"checkpoints cannot lie at {url} .*: install"):
        run_meta_training(training_plan(url), ignore, never)


def test_what_a_store_raises_is_a_checkpoint_error(url: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: object, path: str, value: bytes, **options: object) -> None:
        raise PermissionError("AccessDenied") if value.startswith(b"{") else RuntimeError("SlowDown")

    run_meta_training(training_plan(url, num_steps=3), ignore, never)
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "pipe_file", refuse)
    with pytest.raises(OSError, match="SlowDown"):
        RemoteFolder(url).write("x", b"y")
    with pytest.raises(CheckpointError, match=r"checkpoints cannot be kept at memory://.* \(AccessDenied\)"):
        run_meta_training(training_plan(url, resume=True), ignore, never)
    assert paths(url)[0].endswith("checkpoint-00000003.mcb")
