"""The asyncio shell around `ServerState`: hands out shards, takes gradients in, saves checkpoints."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from ray.actor import ActorHandle

from cluster.checkpoint import Checkpoint, load_newest, save
from cluster.errors import Superseded
from cluster.plan import ServerPlan, StepRecord
from cluster.refresh import Pending, Refreshed
from cluster.refresher import Elsewhere
from cluster.server_state import ServerState
from cluster.shards import Shard, ShardReport
from cluster.vectors import Published, Vectors


class Assignment(NamedTuple):
    """Shards for a worker, none when it is to end, to be computed at parameters that saw `base` updates.

    The parameters, as they travel, come if they changed since the worker's last assignment: the vector itself or a
    list of references to it (a bare reference would be fetched before the reply is). `slices` come with a worker's
    first parameters: where its gradients go, empty if to the server; `new_state` with its first shards under a state.
    """

    shards: tuple[Shard, ...]
    base: int
    parameters: Published | None
    slices: tuple[ActorHandle, ...] | None
    new_state: np.ndarray | None = None


class Progress(NamedTuple):
    """Meta-steps done, and whether the run is over."""

    records: list[StepRecord]
    is_over: bool


class Coordinator:
    """One generation of the parameter server: what goes on from one checkpoint until the run is over or a slice dies.

    It starts from the newest checkpoint of the plan's folder, which holds one from the run's beginning. `vectors` makes
    the hold on the meta-parameters from it. State is touched on the actor's event loop alone, files are written in a
    thread.
    """

    def __init__(
        self, plan: ServerPlan, vectors: Callable[[Checkpoint], Vectors], refresher: Elsewhere | None = None
    ) -> None:
        self._plan, self._refresher = plan, refresher
        start = load_newest(plan.checkpoint_dir)
        self._state, self._vectors = ServerState(plan, start), vectors(start)
        self._updating = asyncio.Lock()
        self._records: list[StepRecord] = []
        self._base_at: dict[str, int] = {}
        self._adopted: dict[str, np.ndarray] = {}
        self._changed = asyncio.Event()
        self._stopped = self._abandoned = False
        self._error: Exception | None = None
        self._saved = self._state.num_updates
        self._saving: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[Pending | None] | None = None

    async def exchange(self, worker_id: str, base: int, reports: Sequence[ShardReport]) -> Assignment:
        """Take a worker's reports in, computed after `base` updates; answer with its next assignment once there is one.

        An assignment without shards is the last: the run is over, or the worker was taken for dead.
        A worker that has more to report does so before it asks: what it holds and does not report is given to others.
        Raises `Superseded` once this generation is abandoned. Any other error ends it, such as a slice that is lost.
        """
        try:
            await self._vectors.start()
            await self._take_in(worker_id, base, reports)
        except Superseded:
            raise
        except Exception as error:
            self._fail(error)
            raise
        if self._state.take_back(worker_id):
            self._notify()
        asked_at = time.perf_counter()
        while not self._is_over and not self._state.is_released(worker_id):
            if self._abandoned:
                raise Superseded
            shards = self._state.assign(worker_id)
            if shards:
                self._state.waited(time.perf_counter() - asked_at)
                return self._assignment(worker_id, shards)
            await self._change(self._state.take_over_in_s(worker_id))
        return Assignment((), base, None, None)

    async def release(self, worker_id: str) -> int:
        """Give a dead worker's shards to others; returns how many shards that were."""
        num_lost = self._state.release(worker_id)
        self._notify()
        return num_lost

    async def progress(self, seen: int) -> Progress:
        """The meta-steps after version `seen`, waiting for one unless the run is over; those before are forgotten.

        It is answered at once, perhaps with none, when this generation is abandoned.
        """
        while not self._records_after(seen) and not (self._is_over or self._abandoned):
            await self._change(None)
        return Progress(self._records_after(seen), self._is_over)

    async def finish(self, seen: int) -> tuple[list[StepRecord], Checkpoint]:
        """End the run here: abandon the meta-step at hand, save; returns the records after `seen` and the end.

        Raises what made the run fail (`CheckpointError`, `RefusedSteps`) or lost a slice (`cluster.losses`).
        """
        self._stopped = True
        self._notify()
        await self._vectors.start()
        async with self._updating:
            if self._saving is not None:
                await self._saving
            if self._refreshing is not None:
                await self._refreshing
            error = self._error or self._state.failure
            if error is not None:
                raise error
            last = self._state.checkpoint(await self._vectors.state())
        if self._state.num_updates != self._saved:
            await asyncio.to_thread(save, last, self._plan.checkpoint_dir, self._plan.checkpoint_keep)
        return self._records_after(seen), last

    async def abandon(self, seen: int) -> list[StepRecord]:
        """Give this generation up: whoever waits is told so, a checkpoint that is being written is finished first.

        Returns the meta-steps after version `seen`: the next generation does not do those again that are saved.
        """
        self._abandoned = True
        self._notify()
        if self._refreshing is not None:
            self._refreshing.cancel()
        if self._saving is not None:
            await asyncio.wait([self._saving])
        return self._records_after(seen)

    @property
    def _is_over(self) -> bool:
        return self._stopped or self._error is not None or self._state.is_done

    async def _take_in(self, worker_id: str, base: int, reports: Sequence[ShardReport]) -> None:
        """Take reports in one by one, and make the updates that fall due.

        Once enough of them are known to tell stragglers, those who wait without a limit are to have one.
        """
        for report in reports:
            if self._is_over:
                return
            told_stragglers = self._state.tells_stragglers
            key = self._state.accept(worker_id, base, report)
            if self._state.tells_stragglers and not told_stragglers:
                self._notify()
            if key is not None:
                self._vectors.keep(key, report.gradient, self._state)
            if not self._updating.locked():  # else who holds the lock makes this update too
                async with self._updating:
                    await self._make_updates()

    async def _make_updates(self) -> None:
        while not self._is_over and (update := self._state.next_update()) is not None:
            self._begin_refresh()
            record = self._state.finish_update(await self._vectors.make(update))
            if record is None:
                continue
            self._records.append(record)
            self._notify()
            if self._state.is_checkpoint_due:
                await self._begin_saving()

    async def _begin_saving(self) -> None:
        """Write a checkpoint while the run goes on, but wait for the one before it: there is one copy at most."""
        if self._saving is not None:
            await asyncio.wait([self._saving])  # which may be cancelled
        if self._error is None and not self._abandoned:
            self._saved = self._state.num_updates
            checkpoint = self._state.checkpoint(await self._vectors.state())
            if self._abandoned:
                raise Superseded
            late = self._refreshing if self._state.refreshes.is_under_way else None
            self._saving = asyncio.ensure_future(self._save(checkpoint, late))

    def _begin_refresh(self) -> None:
        """Have the survey that the update at hand completes refreshed, if it does, at the parameters before it."""
        survey = self._state.refreshes.survey
        if survey is not None and self._refresher is not None:
            ask = self._refresher.refresh(self._vectors.published, survey)
            self._refreshing = asyncio.ensure_future(self._refresh(ask))

    async def _refresh(self, ask: Awaitable[Refreshed]) -> Pending | None:
        """Wait for a refresh and deliver it; a failure ends the run."""
        try:
            return self._state.refreshes.deliver(await ask)
        except Exception as error:
            self._fail(error)
            return None
        finally:
            self._notify()

    def _records_after(self, seen: int) -> list[StepRecord]:
        self._records = [record for record in self._records if record.version > seen]
        return self._records

    def _fail(self, error: Exception) -> None:
        """End this generation by an error, the first one if there are several."""
        self._error = self._error or error
        self._notify()

    def _notify(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self, timeout_s: float | None) -> None:
        """Wait until something changes, or so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def _assignment(self, worker_id: str, shards: tuple[Shard, ...]) -> Assignment:
        base = self._state.num_updates
        if self._base_at.get(worker_id) == base:
            return Assignment(shards, base, None, None)
        slices = None if worker_id in self._base_at else self._vectors.slices
        self._base_at[worker_id] = base
        self._state.sent_parameters()
        return Assignment(shards, base, self._vectors.published, slices, self._new_state(worker_id))

    def _new_state(self, worker_id: str) -> np.ndarray | None:
        """The state of the shards at hand, if the worker does not have it."""
        state = self._state.refreshes.state_at(self._state.version)
        if state is None or self._adopted.get(worker_id) is state:
            return None
        self._adopted[worker_id] = state
        return state

    async def _save(self, checkpoint: Checkpoint, late: asyncio.Task[Pending | None] | None) -> None:
        """Write one checkpoint, with the refresh that is pending at it but comes `late`; a failure ends the run."""
        if late is not None:
            checkpoint = replace(checkpoint, pending=await late)
            if checkpoint.pending is None:  # it failed
                return
        try:
            await asyncio.to_thread(save, checkpoint, self._plan.checkpoint_dir, self._plan.checkpoint_keep)
        except Exception as error:
            self._fail(error)
