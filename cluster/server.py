"""The parameter server actor: one coordinator after another, each from the newest checkpoint."""

from collections.abc import Sequence
from typing import NamedTuple

from ray.actor import ActorHandle

from cluster.checkpoint import Checkpoint
from cluster.code_version import require_code
from cluster.coordinator import Assignment, Coordinator, Progress
from cluster.errors import Superseded
from cluster.plan import ServerPlan, StepRecord
from cluster.refresher import Elsewhere
from cluster.shards import ShardReport
from cluster.slices import InSlices
from cluster.vectors import InServer, Vectors


class Address(NamedTuple):
    """Whom a worker works for: the server in one of its generations, which a later one knows nothing of."""

    server: ActorHandle
    generation: int


class Server:
    """Runs as a Ray actor. The vectors are in `slices`, which outlive it and which it outlives, or, if none, in itself.

    A generation ends when a slice is lost: what the others hold is no use without it, so all go on from the newest
    checkpoint, and what workers computed for the generation before counts no more.
    """

    def __init__(self, code: str, plan: ServerPlan, generation: int = 0, slices: Sequence[ActorHandle] = ()) -> None:
        """Raises `ClusterError` unless this process runs `code`, the driver's `cluster.code_version`."""
        require_code(code)
        self._plan = plan
        self._refresher = None if plan.refresh is None else Elsewhere(plan.refresh.build, code)
        self._begin(generation, slices)

    async def restart(self, generation: int, slices: Sequence[ActorHandle], seen: int) -> list[StepRecord]:
        """Go on from the newest checkpoint with these slices; the records after `seen` of the generation before.

        Raises `CheckpointError`.
        """
        records = await self._coordinator.abandon(seen)
        self._begin(generation, slices)
        return records

    async def exchange(self, generation: int, worker_id: str, base: int, reports: Sequence[ShardReport]) -> Assignment:
        """`Coordinator.exchange`, for a worker of this generation; raises `Superseded` for one of another."""
        if generation != self._generation:
            raise Superseded
        return await self._coordinator.exchange(worker_id, base, reports)

    async def release(self, worker_id: str) -> int:
        """`Coordinator.release`."""
        return await self._coordinator.release(worker_id)

    async def progress(self, seen: int) -> Progress:
        """`Coordinator.progress`."""
        return await self._coordinator.progress(seen)

    async def finish(self, seen: int) -> tuple[list[StepRecord], Checkpoint]:
        """`Coordinator.finish`."""
        return await self._coordinator.finish(seen)

    def _begin(self, generation: int, slices: Sequence[ActorHandle]) -> None:
        def vectors(start: Checkpoint) -> Vectors:
            return InSlices(self._plan, start, generation, slices) if slices else InServer(self._plan, start)

        self._generation = generation
        self._coordinator = Coordinator(self._plan, vectors, self._refresher)
