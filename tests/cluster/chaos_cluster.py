"""A run on a cluster of several nodes whose actors, nodes and driver die by a seed: `chaos_cluster.py SEED...`."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from chaos import Kill, Killer, planned
from chaos_runs import KINDS, NUM_STEPS, RUNS, run_of, undisturbed
from ray.cluster_utils import Cluster

HERE = Path(__file__).parent
NUM_KILLS = 3
_SECONDS = {  # node death is seen after a second, not after fifteen
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


class Outcome(NamedTuple):
    """What a disturbed run ended with; `versions` are the meta-steps that the driver saw in each of its lives."""

    sha256: str
    kills: list[Kill]
    versions: list[list[int]]


@contextmanager
def nodes(num_nodes: int = 2) -> Iterator[Cluster]:
    """A head without CPUs and nodes of two CPUs each, all on this machine; drivers find it by RAY_ADDRESS."""
    importable = os.pathsep.join([str(HERE.parents[1]), str(HERE), *sys.path])
    head = {"num_cpus": 0, "object_store_memory": 100_000_000, "include_dashboard": False, "_system_config": _SECONDS}
    with patch.dict(os.environ, RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=importable):
        cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
        try:
            for _ in range(num_nodes):
                add_node(cluster)
            os.environ["RAY_ADDRESS"] = str(cluster.address)
            yield cluster
        finally:
            cluster.shutdown()


def add_node(cluster: Cluster) -> None:
    """Two more CPUs, on a node of their own; nobody waits for it."""
    cluster.add_node(wait=False, num_cpus=2, object_store_memory=100_000_000)


def disturbed(seed: int, cluster: Cluster, folder: Path) -> Outcome:
    """The run of `chaos_driver.py` with the deaths of a seed; a dead driver is started again."""
    run, versions, driver = run_of(seed), list[list[int]](), list[subprocess.Popen[str]]()

    def kill_driver(place: float) -> None:
        driver[-1].kill()

    def kill_node(place: float) -> None:
        doomed = sorted(cluster.worker_nodes, key=lambda node: node.node_id)
        cluster.remove_node(doomed[int(place * len(doomed))], allow_graceful=False)
        add_node(cluster)

    killer = Killer(planned(seed, NUM_STEPS, NUM_KILLS, KINDS[run]), {"driver": kill_driver, "node": kill_node})
    while True:
        command = [sys.executable, str(HERE / "chaos_driver.py"), run, str(folder)]
        sha256 = None
        with (
            suppress(BrokenPipeError),  # what a dead driver did not take any more is flushed at the end
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        ):
            driver.append(process)
            versions.append([])
            sha256 = _follow(process, killer, versions[-1])
        if sha256 is not None:
            return Outcome(sha256, killer.done, versions)
        if sum(kill.kind == "driver" for kill in killer.done) < len(versions):
            raise RuntimeError(f"the driver ended by itself, code {process.returncode}, after {killer.done}")


def _follow(process: subprocess.Popen[str], killer: Killer, versions: list[int]) -> str | None:
    """Kill as the meta-steps of one driver pass, each of which waits for that; its hash, or None if it died."""
    assert process.stdin is not None and process.stdout is not None
    for line in process.stdout:
        what, _, value = line.strip().partition(" ")
        if what == "hash":
            return value
        if what == "step":
            versions.append(int(value))
            killer.after(int(value))
            with suppress(BrokenPipeError):  # it was the driver
                process.stdin.write("\n")
                process.stdin.flush()
    return None


def main(seeds: list[int]) -> int:
    """Print what each seed did; 1 if a hash differs or somebody who was to die did not."""
    with tempfile.TemporaryDirectory() as folder, nodes() as cluster:
        expected = {run: undisturbed(run, Path(folder) / run) for run in RUNS}
        failed = 0
        for seed in seeds:
            outcome = disturbed(seed, cluster, Path(folder) / str(seed))
            is_same = outcome.sha256 == expected[run_of(seed)]
            failed += not is_same or len(outcome.kills) < NUM_KILLS
            kills = ", ".join(f"{kill.kind} after {kill.version}" for kill in outcome.kills)
            print(f"seed {seed}, {run_of(seed)}: {'the same' if is_same else 'ANOTHER HASH'} after {kills}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]]))
