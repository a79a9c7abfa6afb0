"""The worker actor: fetch an assignment, compute its shards, report, until there is nothing left."""

from collections.abc import Callable

from cluster.aggregation import WireType
from cluster.code_version import require_code
from cluster.link import ServerLink
from cluster.memory import keep_freed_memory
from cluster.server import Address
from cluster.shards import ComputesMetaGradient, ShardReport, adopt
from cluster.threads import threads


class Worker:
    """Runs as a Ray actor; holds nothing that another worker could not make again."""

    def require_code(self, version: str) -> None:
        """Raise `ClusterError` unless this worker runs the code of that `cluster.code_version`."""
        require_code(version)

    def run(
        self,
        worker_id: str,
        address: Address,
        build_gradient: Callable[[], ComputesMetaGradient],
        num_threads: int,
        gradient_wire: WireType,
    ) -> None:
        """Compute shards for the server at `address` until the run is over; raises what the computation raises."""
        keep_freed_memory()
        link = ServerLink(worker_id, address, gradient_wire)
        with threads(num_threads):
            compute = build_gradient()
            reports: list[ShardReport] = []
            while (work := link.ask(reports)) is not None:
                if work.new_state is not None:
                    adopt(compute, work.new_state)
                reports = [compute(work.parameters, shard) for shard in work.shards]
