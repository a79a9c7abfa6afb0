"""The parameter server actor: an asyncio shell around `ServerState` that hands out shards and saves checkpoints."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import ray

from cluster.checkpoint import Checkpoint, load_newest, save
from cluster.plan import ServerPlan, StepRecord
from cluster.server_state import ServerState
from cluster.shards import Shard, ShardReport

_DIRECT_BYTES = 1024**2  # vectors up to this size are returned, larger ones put once for all workers of a node


class Assignment(NamedTuple):
    """Shards for a worker, none when the run is over, and the parameters if they changed since its last assignment.

    The parameters are the vector itself, or a list of one reference to it (a bare reference would be fetched before
    the reply is).
    """

    shards: tuple[Shard, ...]
    parameters: np.ndarray | list[ray.ObjectRef] | None


class Progress(NamedTuple):
    """Meta-steps done, and whether the run is over."""

    records: list[StepRecord]
    is_over: bool


class Server:
    """Runs as a Ray actor; state is touched on its event loop alone, files are written in a thread.

    It starts from the newest checkpoint of the plan's folder, which holds one from the run's beginning.
    """

    def __init__(self, plan: ServerPlan) -> None:
        self._plan = plan
        self._state = ServerState(plan, load_newest(plan.checkpoint_dir))
        self._records: list[StepRecord] = []
        self._version_at: dict[str, int] = {}
        self._published: tuple[int, np.ndarray | list[ray.ObjectRef]] = (-1, [])
        self._changed = asyncio.Event()
        self._stopped = False
        self._error: Exception | None = None
        self._saved = self._state.version
        self._saving: asyncio.Task[None] | None = None

    async def exchange(self, worker_id: str, reports: Sequence[ShardReport]) -> Assignment:
        """Take a worker's reports in and answer with its next assignment once there is one."""
        for report in reports:
            self._accept(worker_id, report)
        while not self._is_over:
            shards = self._state.assign(worker_id)
            if shards:
                return Assignment(shards, self._parameters_for(worker_id))
            await self._changed.wait()
        return Assignment((), None)

    async def release(self, worker_id: str) -> int:
        """Give a dead worker's shards to others; returns how many shards that were."""
        num_lost = self._state.release(worker_id)
        self._notify()
        return num_lost

    async def progress(self, seen: int) -> Progress:
        """The meta-steps after version `seen`, waiting for one unless the run is over; those before are forgotten."""
        while not self._records_after(seen) and not self._is_over:
            await self._changed.wait()
        return Progress(self._records_after(seen), self._is_over)

    async def finish(self, seen: int) -> tuple[list[StepRecord], Checkpoint]:
        """End the run here: abandon the meta-step at hand, save; returns the records after `seen` and the end.

        Raises what made the run fail: `CheckpointError`, `RefusedSteps`.
        """
        self._stopped = True
        self._notify()
        if self._saving is not None:
            await self._saving
        error = self._error or self._state.failure
        if error is not None:
            raise error
        last = self._state.checkpoint()
        if self._state.version != self._saved:
            await asyncio.to_thread(save, last, self._plan.checkpoint_dir, self._plan.checkpoint_keep)
        return self._records_after(seen), last

    @property
    def _is_over(self) -> bool:
        return self._stopped or self._error is not None or self._state.is_done

    def _accept(self, worker_id: str, report: ShardReport) -> None:
        if self._is_over:
            return
        record = self._state.accept(worker_id, report)
        if record is not None:
            self._records.append(record)
            self._notify()
            if self._state.is_checkpoint_due:
                self._saved = self._state.version
                self._saving = asyncio.ensure_future(self._save(self._state.checkpoint(), self._saving))

    def _records_after(self, seen: int) -> list[StepRecord]:
        self._records = [record for record in self._records if record.version > seen]
        return self._records

    def _notify(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _parameters_for(self, worker_id: str) -> np.ndarray | list[ray.ObjectRef] | None:
        version = self._state.version
        if self._version_at.get(worker_id) == version:
            return None
        self._version_at[worker_id] = version
        if self._published[0] != version:
            parameters = self._state.parameters
            small = parameters.nbytes <= _DIRECT_BYTES
            self._published = (version, parameters if small else [ray.put(parameters)])
        return self._published[1]

    async def _save(self, checkpoint: Checkpoint, previous: asyncio.Task[None] | None) -> None:
        """Write one checkpoint after the one before it; a failure ends the run."""
        if previous is not None:
            await previous
        try:
            await asyncio.to_thread(save, checkpoint, self._plan.checkpoint_dir, self._plan.checkpoint_keep)
        except Exception as error:
            self._error = error
            self._notify()
