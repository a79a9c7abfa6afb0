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
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from job_cluster import JobCluster, free_ports, job_cluster
from tiny_runs import TINY

from cluster.tracking_store import experiment_id, open_store
from jobs.cli import main

_ROOT = Path(__file__).parents[2]
_NUM_STEPS = 300
_UNCOMPILED = ("--inference.kind=gradient", "--inference.num-steps=1", "--inference.num-particles=2")  # no numba


class Scene(NamedTuple):
    """A cluster and a tracking server, and the values that nobody may see."""

    cluster: JobCluster
    tracking: str
    storage: Path
    secrets: dict[str, str]

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
        with job_cluster(folder, environment) as cluster:
            cluster.wait(num_nodes=1)
            cluster.add_node()
            cluster.wait(num_nodes=2)
            _wait_for_tracking(server, port)
            yield Scene(cluster, f"http://127.0.0.1:{port}", storage, {**hidden, "token": cluster.token})
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def test_jobs_of_a_cluster_survive_a_node_and_are_tracked_and_keep_secrets(scene, workplace, capsys):
    with _command_lines() as seen:
        train = scene.mcb("submit", "train", "two-modes", *_training(), "--name", "survivor", "--follow")
        num_before = _wait_for_steps(scene.storage / "survivor" / "metrics.jsonl", 20)
        scene.cluster.kill_node(1)
        written, _ = train.communicate()
        assert num_before < _NUM_STEPS
        assert train.returncode == 0, written
        search = scene.mcb("submit", "tune", "two-modes", *_search(), "--name", "search", "--follow")
        searched, _ = search.communicate()
        assert search.returncode == 0, searched
        listed, _ = scene.mcb("jobs", "list").communicate()

    assert "job survivor-" in written and "succeeded" in written
    assert f"step {_NUM_STEPS}/{_NUM_STEPS}" in written
    assert listed.count("succeeded") == 2
    assert main(["train", "two-modes", *_training(), "--cluster.num-workers=0", "--json", "alone.json"]) == 0
    alone = json.loads(Path("alone.json").read_text())
    result = json.loads((scene.storage / "survivor" / "result.json").read_text())
    assert result["params_sha256"] == alone["params_sha256"]

    client = open_store(scene.tracking)
    runs = client.search_runs([experiment_id(client, scene.tracking)])
    assert {run.info.status for run in runs} == {"FINISHED"}
    [parent] = [run for run in runs if run.data.tags.get("kind") == "search"]
    [trained] = [run for run in runs if run.data.tags.get("ray_job", "").startswith("survivor-")]
    assert trained.info.run_id == result["run_id"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 4
    assert len(runs) == 6

    shown = {"output": written + searched + listed, "command lines": "\n".join(seen)}
    for name, secret in scene.secrets.items():
        for place, text in shown.items():
            assert secret not in text, f"{name} in {place}"
        assert _files_with(secret, scene.cluster.folder) <= {scene.cluster.token_file}, name


def _training() -> tuple[str, ...]:
    schedule = (f"--train.num-steps={_NUM_STEPS}", "--train.checkpoint-every=50", "--train.num-shards=3")
    return (*TINY, *_UNCOMPILED, *schedule, "--cluster.num-workers=3")


def _search() -> tuple[str, ...]:
    options = ("--num-trials", "4", "--scheduler", "none", "--num-reports", "1", "--num-seeds", "0")
    needs = ("--credentials", "AWS_SECRET_ACCESS_KEY")
    return (*TINY, *_UNCOMPILED, *options, "--num-validation-tasks", "20", *needs)


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


def _wait_for_steps(path: Path, number: int) -> int:
    """Wait until a run has done meta-steps; how many it has done."""
    for _ in range(1200):
        done = len(path.read_text().splitlines()) if path.exists() else 0
        if done >= number:
            return done
        time.sleep(0.1)
    raise RuntimeError(f"{path} shows no {number} meta-steps")


def _files_with(secret: str, folder: Path) -> set[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path for path in files if secret.encode() in path.read_bytes()}


class _command_lines:
    """All command lines of this machine that were seen inside the block."""

    def __enter__(self) -> set[str]:
        self._seen, self._over = set[str](), threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self._seen

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.5):
            for process in psutil.process_iter():
                try:
                    self._seen.add(" ".join(process.cmdline()))
                except psutil.Error:
                    continue
