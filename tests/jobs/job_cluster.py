"""A Ray cluster of this machine's as an administrator would start one: `ray start`, a dashboard, a token.

Every process is ended by its id: `ray stop` would end all clusters of this machine.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_START_S = 600  # for every node, on however busy a machine
_SECONDS = {  # a node that is gone is seen after two seconds, and one that is slow on a busy machine is no dead one
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 4,
}


class JobCluster:
    """A head of 2 CPUs and whatever nodes join it; `folder` must have a short path, because sockets lie below it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.token_file = folder, folder / "token"
        self.token = secrets.token_hex(32)
        self.token_file.write_text(self.token)
        self._gcs, self._dashboard, *_ = ports = free_ports(7)
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            **environment,
        }
        names = (
            *("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"),
            *("metrics-export-port", "ray-client-server-port", "node-manager-port"),
        )
        options = [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._options: list[Sequence[str]] = []
        self._deadline = time.monotonic() + _START_S
        self._start(
            *("--head", "--dashboard-host=127.0.0.1", f"--temp-dir={folder / 'ray'}", *options),
            f"--system-config={json.dumps(_SECONDS)}",
        )

    @property
    def address(self) -> str:
        """The dashboard's."""
        return f"http://127.0.0.1:{self._dashboard}"

    def add_node(self) -> int:
        """Two more CPUs as if on another machine; nobody waits for it. Returns what `kill_node` takes."""
        number = len(self._nodes)
        apart = (f"--node-ip-address=127.0.0.{number + 1}", f"--temp-dir={self.folder / f'node{number}'}")
        ports = zip(
            ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port"),
            free_ports(3),
            strict=True,
        )
        here = f"--address=127.0.0.1:{self._gcs}"
        return self._start(here, *apart, *(f"--{name}={port}" for name, port in ports))

    def kill_node(self, number: int) -> None:
        """All processes of a node at once, as when its machine goes."""
        _kill(self._nodes[number])

    def wait(self, num_nodes: int) -> None:
        """Until the dashboard takes jobs and has `num_nodes` nodes alive."""
        while self._num_alive() < num_nodes:
            if time.monotonic() > self._deadline:
                raise RuntimeError("the cluster did not start:\n" + (self.folder / "start.log").read_text())
            for number, node in enumerate(self._nodes):
                if node.poll() not in (None, -signal.SIGKILL):  # a node gives up after 30 s of a machine's being busy
                    self._nodes[number] = self._started(self._options[number])
            time.sleep(0.2)

    def close(self) -> None:
        """End every process."""
        for node in reversed(self._nodes):
            _kill(node)

    def _start(self, *options: str) -> int:
        self._options.append(options)
        self._nodes.append(self._started(options))
        return len(self._nodes) - 1

    def _started(self, options: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--include-log-monitor=false"]
        with (self.folder / "start.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--num-cpus=2", "--object-store-memory=100000000", *options],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _num_alive(self) -> int:
        request = urllib.request.Request(
            f"{self.address}/api/v0/nodes", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                nodes = json.load(answer)["data"]["result"]["result"]
        except (OSError, ValueError):
            return 0
        return sum(node["state"] == "ALIVE" for node in nodes)


@contextmanager
def job_cluster(folder: Path, environment: Mapping[str, str]) -> Iterator[JobCluster]:
    """A head for the length of the block."""
    cluster = JobCluster(folder, environment)
    try:
        yield cluster
    finally:
        cluster.close()


def free_ports(number: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [place.getsockname()[1] for place in sockets]
    for place in sockets:
        place.close()
    return ports


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        parent = psutil.Process(process.pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def _kill(process: subprocess.Popen[bytes]) -> None:
    family = _family(process)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=20)
    process.wait()
