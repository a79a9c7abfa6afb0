"""The actor of one rank of a group: the leader is a worker to the server, the others follow the leader."""

from torch._C._distributed_c10d import TCPStore

from cluster.aggregation import WireType
from cluster.code_version import require_code
from cluster.group import LeadsGroup, connect, follow, leading, listen, process_group
from cluster.group_plan import GroupPlan
from cluster.memory import keep_freed_memory
from cluster.server import Address
from cluster.threads import threads
from cluster.worker import Worker


class Rank:
    """Runs as a Ray actor; holds nothing that another rank could not make again."""

    def __init__(self, code: str, plan: GroupPlan, num_threads: int, nccl: bool) -> None:
        """Raises `ClusterError` unless this process runs `code`, the driver's `cluster.code_version`."""
        require_code(code)
        self._plan, self._num_threads, self._nccl = plan, num_threads, nccl
        self._store: TCPStore | None = None

    def listen(self) -> int:
        """As rank 0, the port at which the others are to meet it."""
        self._store = listen(self._plan.timeout_s)
        return self._store.port

    def lead(self, name: str, address: Address, gradient_wire: WireType) -> None:
        """As rank 0, compute shards for the server at `address` with the others' help until the run is over.

        Raises `GroupBroken` when a rank is lost, and what the computation raises.
        """
        assert self._store is not None  # `listen` gave the port
        plan = self._plan
        with (
            process_group(0, plan.num_ranks, self._store, plan.timeout_s, self._nccl) as group,
            leading(group),
        ):

            def build() -> LeadsGroup:
                return LeadsGroup(group, plan.build_share(group.sharing))

            Worker().run(name, address, build, self._num_threads, gradient_wire)

    def follow(self, rank: int, port: int) -> None:
        """As another rank, compute shares of the leader's shards until it dismisses the group; raises as `lead`."""
        keep_freed_memory()
        plan = self._plan
        store = connect(port, plan.timeout_s)
        with (
            process_group(rank, plan.num_ranks, store, plan.timeout_s, self._nccl) as group,
            threads(self._num_threads),
        ):
            follow(group, plan.build_share(group.sharing))
