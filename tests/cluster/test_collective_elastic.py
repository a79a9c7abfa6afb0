"""Ranks of a collective run join and leave with the nodes of a cluster."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chaos_cluster import add_node, nodes
from fake_learner import training_plan
from victims import victims

from cluster.training import run_meta_training

HERE = Path(__file__).parent


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_ranks_join_with_a_new_node_and_leave_with_a_lost_one_and_the_end_is_the_servers(tmp_path: Path):
    whole = run_meta_training(training_plan(tmp_path / "local"), lambda record: None, lambda: False)
    gate = tmp_path / "gate"
    command = [sys.executable, str(HERE / "collective_driver.py"), str(tmp_path / "run"), str(gate)]
    with (
        nodes(1) as cluster,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver,
    ):
        until(lambda: len(victims("RayTrainWorker")) == 1)
        add_node(cluster)
        until(lambda: len(victims("RayTrainWorker")) == 2)
        cluster.remove_node(max(cluster.worker_nodes, key=lambda node: node.node_id), allow_graceful=False)
        until(lambda: len(victims("RayTrainWorker")) == 1)
        gate.touch()
        said = driver.communicate(timeout=400)[0]
    found = {line.partition(" ")[0]: line.partition(" ")[2] for line in said.splitlines()}
    assert "parameters" in found, said
    parameters = np.frombuffer(bytes.fromhex(found["parameters"]), dtype=np.float32)
    np.testing.assert_allclose(parameters, whole.parameters, rtol=1e-5, atol=1e-6)
    versions = [int(line.removeprefix("step ")) for line in said.splitlines() if line.startswith("step ")]
    assert versions == list(range(1, 13))
