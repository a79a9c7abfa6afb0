"""The worker actor: fetch an assignment, compute its shards, report, until there is nothing left."""

from collections.abc import Callable
from typing import cast

import numpy as np
import ray
from ray.actor import ActorHandle

from cluster.code_version import require_code
from cluster.server import Assignment
from cluster.shards import ComputesMetaGradient, ShardReport
from cluster.threads import threads


class Worker:
    """Runs as a Ray actor; holds nothing that another worker could not make again."""

    def require_code(self, version: str) -> None:
        """Raise `ClusterError` unless this worker runs the code of that `cluster.code_version`."""
        require_code(version)

    def run(
        self,
        worker_id: str,
        server: ActorHandle,
        build_gradient: Callable[[], ComputesMetaGradient],
        num_threads: int,
    ) -> None:
        """Compute shards for `server` until the run is over; raises what the computation raises.

        All shards of an assignment are reported in one message, which is also the question for the next assignment:
        one round trip a meta-step where a worker computes it alone.
        """
        with threads(num_threads):
            compute = build_gradient()
            parameters = np.empty(0, dtype=np.float32)
            reports: list[ShardReport] = []
            while True:
                assignment = cast(Assignment, ray.get(server.exchange.remote(worker_id, reports)))
                if not assignment.shards:
                    return
                if assignment.parameters is not None:
                    parameters = _fetch(assignment.parameters)
                reports = [compute(parameters, shard) for shard in assignment.shards]


def _fetch(parameters: np.ndarray | list[ray.ObjectRef]) -> np.ndarray:
    """The vector, a read-only view of shared memory if it came by reference."""
    return parameters if isinstance(parameters, np.ndarray) else ray.get(parameters[0])
