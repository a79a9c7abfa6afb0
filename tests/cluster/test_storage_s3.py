"""Checkpoints at `s3://`, through s3fs, in a server of this process that speaks S3."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import numpy as np
import pytest
from bystanders import ignore, never
from fake_learner import training_plan

from cluster.checkpoint import load, load_newest, paths
from cluster.errors import CheckpointError
from cluster.lock import NAME, Held, lease, locked
from cluster.storage import open_storage, sweep
from cluster.training import run_meta_training

s3fs = pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "none",
    "AWS_SHARED_CREDENTIALS_FILE": "none",
    "NO_PROXY": "127.0.0.1",
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket, and an environment in which whoever opens it is led there."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def url(bucket: str, request: pytest.FixtureRequest) -> str:
    return f"{bucket}/{request.node.name}"


def test_a_run_stopped_at_s3_resumes_there_to_the_bits_of_a_local_one(tmp_path: Path, url: str):
    whole = run_meta_training(training_plan(tmp_path), ignore, never)
    stopped = run_meta_training(training_plan(url), ignore, lambda: True)
    assert stopped.checkpoint == f"{url}/checkpoint-00000001.mcb" == paths(url)[0]
    resumed = run_meta_training(training_plan(url, resume=True), ignore, never)
    assert resumed.params_sha256 == whole.params_sha256
    np.testing.assert_array_equal(load(resumed.checkpoint).parameters, whole.parameters)
    assert sorted(open_storage(url).names()) == [f"checkpoint-000000{number}.mcb" for number in ("05", 10, 12)]


def test_a_damaged_newest_at_s3_is_set_aside(url: str):
    run_meta_training(training_plan(url), ignore, never)
    open_storage(url).write("checkpoint-00000012.mcb", b"MCB")
    assert load_newest(url).version == 10
    assert run_meta_training(training_plan(url, resume=True), ignore, never).num_steps == 12
    assert [load(path).version for path in paths(url)] == [12, 10, 5]
    assert open_storage(url).read("checkpoint-00000012.mcb.unreadable") == b"MCB"


def test_what_is_not_at_s3_is_no_file_and_its_removal_no_error(url: str):
    storage = open_storage(url)
    assert storage.names() == [] == paths(url)
    storage.remove("x")
    with pytest.raises(FileNotFoundError):
        storage.read("x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(f"{url}/checkpoint-00000001.mcb")


def test_a_second_run_at_s3_is_refused_while_the_first_renews_its_lease(url: str):
    with lease(open_storage(url), Held(url), beat_s=0.2) as held:
        with pytest.raises(CheckpointError, match="is being written by another run"), locked(url):
            pass
        held.require()
    assert open_storage(url).names() == []


def test_a_lease_that_a_killed_run_left_at_s3_is_taken_over(url: str):
    storage = open_storage(url)
    storage.write(NAME, b'{"owner": "dead", "host": "there", "process": 7, "beat": 1}')
    with lease(storage, Held(url), beat_s=0.05):
        assert json.loads(storage.read(NAME))["owner"] != "dead"
    assert storage.names() == []


def test_what_a_killed_writer_left_at_s3_is_swept_away_once_it_is_old(url: str, monkeypatch: pytest.MonkeyPatch):
    fs, _ = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{url}/.checkpoint-00000009.mcb.0123456789abcdef.tmp", b"half")
    sweep(url)
    assert len(open_storage(url).names()) == 1
    monkeypatch.setattr(type(fs), "modified", lambda self, path: datetime(2020, 1, 1, tzinfo=UTC))
    sweep(url)
    assert open_storage(url).names() == []
