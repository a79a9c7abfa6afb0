"""`mcb ui` on a store of two hundred runs: it answers on the loopback interface alone, and a browser shows the runs."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Metric, Param, RunTag

from cluster.tracking_store import experiment_id, open_store
from jobs.settings.file import flatten
from jobs.settings.recipes import recipe

NUM_RUNS = 200
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1500,900"),
    *("--no-first-run", "--disable-quic", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--virtual-time-budget=60000", "--dump-dom"),
]
pytestmark = pytest.mark.slow


@pytest.fixture
def store(workplace: Path) -> str:
    """A store of two hundred runs, three of them nested in a search; returns the experiment's id."""
    uri = f"sqlite:///{workplace / 'runs' / 'mlflow.db'}"
    client = open_store(uri)
    experiment = experiment_id(client, uri)
    params = [Param(name, str(value)) for name, value in flatten(recipe("five-modes").model_dump(mode="json")).items()]
    parent = ""
    for number in range(NUM_RUNS):
        nested = {"mlflow.parentRunId": parent} if number > NUM_RUNS - 4 else {}
        run = client.create_run(experiment, run_name=f"five-modes/run-{number:03}", tags=nested).info.run_id
        parent = parent if nested else run
        metrics = [Metric("train/nll", 2 / step, step, step) for step in range(1, 51)]
        client.log_batch(
            run, [*metrics, Metric("test/nll", 0.6 + number / 1000, 51, 50)], params, [RunTag("recipe", "x")]
        )
        client.set_terminated(run)
    return experiment


@pytest.fixture
def address(store: str, workplace: Path) -> Iterator[str]:
    """Where `mcb ui` says that the runs are."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, "-u", "-m", "jobs.cli", "ui", "--no-browser", "--port", str(port)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as ui:
        assert ui.stdout is not None
        said = next(line for line in ui.stdout if line.startswith("MLflow UI at "))
        servers = psutil.Process(ui.pid).children(recursive=True)
        yield said.split()[3]
        ui.send_signal(signal.SIGTERM)
        assert servers and not psutil.wait_procs(servers, timeout=30)[1]


def test_two_hundred_runs_are_served_on_the_loopback_interface_and_shown_by_their_metrics(
    store: str, address: str, workplace: Path
):
    server, _, page = address.partition("/#")
    assert page == f"/experiments/{store}/runs?workflowType=machine_learning&viewStateShareKey=mcb"
    port = int(server.rpartition(":")[2])
    listening = [
        c.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for c in process.net_connections()
        if c.status == psutil.CONN_LISTEN and c.laddr.port == port
    ]
    assert set(listening) == {"127.0.0.1"}

    began = time.perf_counter()
    asked = {"experiment_ids": [store], "max_results": NUM_RUNS}
    request = urllib.request.Request(
        f"{server}/ajax-api/2.0/mlflow/runs/search",
        data=json.dumps(asked).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        runs = json.load(answer)["runs"]
    print(f"{len(runs)} runs answered in {time.perf_counter() - began:.2f} s")
    assert len(runs) == NUM_RUNS
    assert all({"train/nll", "test/nll"} <= {m["key"] for m in run["data"]["metrics"]} for run in runs)

    if CHROMIUM is None:
        pytest.skip("the page itself: there is no Chromium")
    began = time.perf_counter()
    words = [CHROMIUM, *_FLAGS, f"--user-data-dir={workplace / 'browser'}"]
    shown = subprocess.run([*words, address], check=True, capture_output=True, text=True, timeout=300).stdout
    print(f"the page after {time.perf_counter() - began:.1f} s with the start of the browser")
    assert f"{NUM_RUNS - 4:03}" in shown and "five-modes/run-" in shown
    assert "test/nll" in shown and "validation/nll" not in shown
