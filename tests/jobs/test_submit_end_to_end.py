"""The one proof of the whole way: a cluster with a token, jobs, a node that dies, tracked runs, secrets that stay."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from job_cluster import JobCluster, free_ports, job_cluster
from mlflow.entities import Run
from tiny_runs import TINY

from cluster.tracking_store import experiment_id, open_store
from jobs.cli import main

pytestmark = pytest.mark.ray

_ROOT = Path(__file__).parents[2]
_NUM_STEPS = 100
_UNCOMPILED = ("--inference.kind=gradient", "--inference.num-steps=1", "--inference.num-particles=2")  # no numba


class Scene(NamedTuple):
    """A cluster and a tracking server, and the values that nobody may see."""

    cluster: JobCluster
    tracking: str
    storage: Path
    secrets: dict[str, str]
    command_lines: set[str]

    def require_hidden(self, written: str) -> None:
        """None of the secrets is in what a command wrote, in any command line, or in a file but the token's own."""
        for name, secret in self.secrets.items():
            assert secret not in written, f"{name} was written"
            assert not [line for line in set(self.command_lines) if secret in line], f"{name} is in a command line"
            files = (path for path in self.cluster.folder.rglob("*") if path.is_file() and not path.is_symlink())
            holding = {path for path in files if secret.encode() in path.read_bytes()}
            assert holding <= {self.cluster.token_file}, name

    def mcb(self, *words: str) -> subprocess.Popen[str]:
        """The command of a user of this cluster, who knows its token and none of its other secrets."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "RAY_API_SERVER_ADDRESS": self.cluster.address,
            "RAY_AUTH_TOKEN_PATH": str(self.cluster.token_file),
            "MCB_STORAGE": str(self.storage),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *words],
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def scene(migrated_store: Path) -> Iterator[Scene]:
    folder = Path(tempfile.mkdtemp(prefix="mcb-", dir="/tmp"))  # sockets below it want a short path
    hidden = {"password": secrets.token_hex(12), "s3": secrets.token_hex(20)}
    storage = folder / "runs"
    storage.mkdir()
    shutil.copy(migrated_store, folder / "mlflow.db")
    [port] = free_ports(1)
    environment = {
        "MLFLOW_TRACKING_URI": f"http://mcb:{hidden['password']}@127.0.0.1:{port}",
        "AWS_SECRET_ACCESS_KEY": hidden["s3"],
    }
    server = _tracking_server(folder, port)
    try:
        with job_cluster(folder, environment) as cluster, _command_lines() as seen:
            cluster.wait(num_nodes=1)
            cluster.add_node()
            cluster.wait(num_nodes=2)
            _wait_for_tracking(server, port)
            yield Scene(cluster, f"http://127.0.0.1:{port}", storage, {**hidden, "token": cluster.token}, seen)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def test_a_job_outlives_a_node_with_the_same_bits_and_is_tracked_and_nobody_sees_a_secret(scene, train):
    job = scene.mcb("submit", "train", "two-modes", *_training(), "--name", "survivor", "--follow")
    num_before = _wait_for_steps(scene.storage / "survivor" / "metrics.jsonl", 5, job)
    scene.cluster.kill_node(1)
    written, _ = job.communicate()
    assert num_before < _NUM_STEPS
    assert job.returncode == 0, written
    assert "job survivor-" in written and written.endswith("succeeded\n")
    assert f"step {_NUM_STEPS}/{_NUM_STEPS}" in written
    result = json.loads((scene.storage / "survivor" / "result.json").read_text())
    assert result["params_sha256"] == train(*_training(), "--cluster.num-workers=0")["params_sha256"]
    [run] = _runs(scene, "ray_job", "survivor-")
    assert run.info.run_id == result["run_id"] and run.info.status == "FINISHED"
    scene.require_hidden(written)


def test_a_search_is_a_job_with_a_nested_run_for_each_trial_and_nobody_sees_a_secret(scene):
    search = scene.mcb("submit", "tune", "two-modes", *_search(), "--name", "search", "--follow")
    written, _ = search.communicate()
    assert search.returncode == 0, written
    assert "job search-" in written and written.endswith("succeeded\n")
    [parent] = _runs(scene, "kind", "search")
    children = _runs(scene, "mlflow.parentRunId", parent.info.run_id)
    assert len(children) == 4
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    scene.require_hidden(written)


@pytest.mark.slow
def test_a_job_that_is_stopped_saves_and_the_same_command_goes_on_to_the_same_bits(scene, workplace):
    long = (*_training(), "--cluster.num-workers=2", "--train.num-steps=3000", "--optimizer.schedule=constant")
    place = scene.storage / "stopped"
    first = scene.mcb("submit", "train", "two-modes", *long, "--name", "stopped", "--follow")
    _wait_for_steps(place / "metrics.jsonl", 20, first)
    again, _ = scene.mcb("submit", "train", "two-modes", *long, "--name", "stopped").communicate()
    assert f"is at {place} already" in again
    listed, _ = scene.mcb("jobs", "list").communicate()
    [job] = [word for word in listed.split() if word.startswith("stopped-")]
    scene.mcb("jobs", "stop", job).communicate()
    written, _ = first.communicate()
    assert first.returncode == 130 and "saved in" in written
    status = scene.mcb("jobs", "status", job)
    assert "was stopped" in status.communicate()[0] and status.returncode == 130
    done = len((place / "metrics.jsonl").read_text().splitlines())
    short = (*long, f"--train.num-steps={done + 50}")
    second = scene.mcb("submit", "train", "two-modes", *short, "--name", "stopped", "--follow")
    resumed, _ = second.communicate()
    assert second.returncode == 0, resumed
    assert main(["train", "two-modes", *short, "--cluster.num-workers=0", "--json", "alone.json"]) == 0
    alone, result = (json.loads(path.read_text()) for path in (Path("alone.json"), place / "result.json"))
    assert result["params_sha256"] == alone["params_sha256"]


def _training() -> tuple[str, ...]:
    schedule = (f"--train.num-steps={_NUM_STEPS}", "--train.checkpoint-every=50", "--train.num-shards=3")
    return (*TINY, *_UNCOMPILED, *schedule, "--cluster.num-workers=3", "--cluster.start-timeout-s=120")


def _search() -> tuple[str, ...]:
    space = ("--space", "tests/jobs/learning_rates.yaml", "--searcher", "grid")
    options = ("--num-trials", "4", "--scheduler", "none", "--num-reports", "1", "--num-seeds", "0")
    needs = ("--credentials", "AWS_SECRET_ACCESS_KEY")
    return (*TINY, *_UNCOMPILED, *space, *options, "--num-validation-tasks", "20", *needs)


def _tracking_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    with (folder / "mlflow.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, "--port", str(port), "--workers", "1"],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
        )


def _wait_for_tracking(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except OSError:
            assert server.poll() is None
            time.sleep(0.2)
    raise RuntimeError("the tracking server did not start")


def _wait_for_steps(path: Path, number: int, job: subprocess.Popen[str]) -> int:
    """Wait until a job that is followed has done meta-steps; how many it has done."""
    while job.poll() is None:
        done = len(path.read_text().splitlines()) if path.exists() else 0
        if done >= number:
            return done
        time.sleep(0.05)
    raise RuntimeError(f"the job ended before: {job.communicate()[0]}")


def _runs(scene: Scene, tag: str, value: str) -> list[Run]:
    """The tracked runs whose tag begins with a value."""
    client = open_store(scene.tracking)
    runs = client.search_runs([experiment_id(client, scene.tracking)])
    return [run for run in runs if run.data.tags.get(tag, "").startswith(value)]


@contextmanager
def _command_lines() -> Iterator[set[str]]:
    """All command lines of this machine that are seen inside the block."""
    seen, over = set[str](), threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    seen.add(" ".join(process.cmdline()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
