"""A server with more workers waiting than Ray lets into an asynchronous actor by default (1,000) hears the rest."""

from dataclasses import replace
from pathlib import Path

import pytest
import ray
from fake_learner import training_plan

from cluster.checkpoint import Checkpoint, save
from cluster.places import Places
from cluster.supervisor import start_server


@pytest.mark.ray
def test_the_server_answers_while_a_thousand_workers_wait(ray_cluster: None, tmp_path: Path):
    plan = replace(training_plan(tmp_path, num_workers=1100), num_shards=1100, meta_batch=1100)
    save(Checkpoint(0, plan.parameters, plan.parameter_shapes, plan.optimizer.name, {}), tmp_path, 1)
    server = start_server(plan, Places(plan), 0, ()).server
    try:
        working = [server.exchange.remote(0, f"worker-{number}", 0, ()) for number in range(1100)]
        ray.get(working)
        waiting = [server.exchange.remote(0, f"idle-{number}", 0, ()) for number in range(1050)]
        assert ray.get(server.release.remote("worker-0"), timeout=60) == 1
        ray.get(server.finish.remote(0), timeout=60)
        ray.get(waiting, timeout=60)
    finally:
        ray.kill(server)
