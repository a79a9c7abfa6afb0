"""Workers join and leave with the nodes of a cluster while a run goes on."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_cluster import add_node, nodes
from fake_learner import training_plan
from victims import victims

from cluster.training import run_meta_training

HERE = Path(__file__).parent


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_workers_join_with_a_new_node_and_leave_with_a_lost_one_and_no_bit_changes(tmp_path: Path):
    whole = run_meta_training(training_plan(tmp_path / "local"), lambda record: None, lambda: False)
    gate = tmp_path / "gate"
    command = [sys.executable, str(HERE / "elastic_driver.py"), str(tmp_path / "run"), str(gate), "4"]
    with (
        nodes(1) as cluster,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver,
    ):
        until(lambda: len(victims("Worker")) == 2)
        add_node(cluster)
        until(lambda: len(victims("Worker")) == 4)
        cluster.remove_node(min(cluster.worker_nodes, key=lambda node: node.node_id), allow_graceful=False)
        assert driver.stdout is not None
        said = ""
        for line in driver.stdout:
            said += line
            if said.count("another takes its place") == 2:  # before that, idle workers would finish the run
                gate.touch()
    assert f"hash {whole.params_sha256}" in said
