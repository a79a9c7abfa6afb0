"""Trains with three groups of two ranks on a Ray cluster of three nodes; prints where each group is, and the result."""

import json
import logging
import os
import sys
from pathlib import Path

import ray
from group_learner import group_plan_of
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

from cluster.plan import StepRecord
from cluster.training import run_meta_training

_SIZE = {"num_cpus": 4, "object_store_memory": 80_000_000}


def main(folder: Path) -> None:
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    cluster = Cluster(initialize_head=True, head_node_args={**_SIZE, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(True, **_SIZE)
    ray.init(address=cluster.address, logging_level=logging.WARNING, log_to_driver=False)
    nodes: list[list[str]] = []

    def look(record: StepRecord) -> None:
        if record.version == 1:
            groups = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
            nodes.extend(list(group["bundles_to_node_id"].values()) for group in groups)

    try:
        result = run_meta_training(group_plan_of(folder, num_workers=3), look, lambda: False)
        print(json.dumps({"nodes": nodes, "params_sha256": result.params_sha256}))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
