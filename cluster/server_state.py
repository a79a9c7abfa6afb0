"""The parameter server's decisions as a plain object: assignments out, reports in, an update when all is there.

It knows no Ray, no learner and no vectors: those are a `ParameterSlice`'s or those of several. The coordinator and the
in-process run (`local.py`) are shells around it, which is why they give the same bits.
"""

import math
import time
from collections.abc import Callable, Sequence

from cluster.aggregation import NUM_BYTES, WireType
from cluster.checkpoint import Checkpoint
from cluster.errors import RefusedSteps
from cluster.ledger import OpenShards, ShardLedger
from cluster.plan import ServerPlan, StepRecord
from cluster.policies import num_to_assign
from cluster.refresh_state import RefreshState
from cluster.shards import GradientKey, Shard, ShardReport
from cluster.slice_state import SliceState
from cluster.tally import StepTally
from cluster.update import Made, Update, too_many_refused
from cluster.update_queue import UpdateQueue


class ServerState:
    """Which shards are out, which gradients are in, and where the run stands, continued from a fitting `checkpoint`.

    `cluster.checkpoint.require_fit` says whether it fits. `refreshes` is where it stands with the learner's state.
    """

    def __init__(
        self, server_plan: ServerPlan, checkpoint: Checkpoint, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._plan, self._clock = server_plan, clock
        self._policy = server_plan.aggregation.policy
        self._updates_per_step = self._policy.updates_per_step(server_plan.num_shards)
        self._version = checkpoint.version
        start = checkpoint.open_shards or OpenShards(checkpoint.version * server_plan.num_shards, ())
        self._num_updates = start.num_counted * self._updates_per_step // server_plan.num_shards
        self._num_tasks = checkpoint.num_tasks
        self._num_refused = checkpoint.num_refused
        self._train_seconds = checkpoint.train_seconds
        self.refreshes = RefreshState(server_plan.refresh, checkpoint)
        num_surveyed = None if server_plan.refresh is None else self.refreshes.num_surveyed
        self._ledger = ShardLedger(server_plan.meta_batch, server_plan.num_shards, start, num_surveyed)
        self._gathered: dict[GradientKey, ShardReport] = {}
        num_in_update = server_plan.num_shards // self._updates_per_step
        self._queue = UpdateQueue(num_in_update, self._policy.is_ordered)
        self._unused: list[GradientKey] = []
        self._under_way: tuple[Update, dict[GradientKey, ShardReport]] | None = None
        self._tally = StepTally()
        self._released: set[str] = set()
        self._failure: RefusedSteps | None = None
        self._step_started: float | None = None

    @property
    def version(self) -> int:
        """Meta-steps done."""
        return self._version

    @property
    def num_updates(self) -> int:
        """Updates that the parameters have seen: a gradient's `base` if it is computed now."""
        return self._num_updates

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to compute."""
        return self._version >= self._plan.num_steps or self._failure is not None

    @property
    def failure(self) -> RefusedSteps | None:
        """Why the run must stop, if it must."""
        return self._failure

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether the present version is one to keep; a run that failed keeps what it had."""
        every = self._version % self._plan.checkpoint_every == 0
        return self._failure is None and (every or self._version == self._plan.num_steps)

    def assign(self, worker_id: str) -> tuple[Shard, ...]:
        """Shards to compute at the present parameters for a worker that has none; empty if there are none for now.

        Where nothing is free, a shard that another worker has had for too long. A worker that was released gets none:
        its question may still be here when it is dead.
        """
        if self.is_done or self.is_released(worker_id) or self._is_full or not self.refreshes.is_ready(self._version):
            return ()
        now = self._clock()
        if self._step_started is None:
            self._step_started = now
        num = num_to_assign(self._ledger.num_free(self._end), self._plan.max_workers)
        taken = self._ledger.take(worker_id, num if self._updates_per_step == 1 else min(num, 1), self._end, now)
        return taken or self._ledger.take_over(worker_id, self._plan.aggregation.straggler_factor, now)

    def take_over_in_s(self, worker_id: str) -> float | None:
        """Seconds after which a worker that got nothing should ask again though nothing happened; None: never."""
        if self._is_full:
            return None
        return self._ledger.take_over_in_s(worker_id, self._plan.aggregation.straggler_factor, self._clock())

    @property
    def tells_stragglers(self) -> bool:
        """Whether `take_over_in_s` can say when; from then on those that it said never to should ask again."""
        return self._ledger.tells_stragglers(self._plan.aggregation.straggler_factor)

    def take_back(self, worker_id: str) -> int:
        """Free what a worker holds though it asks for more, such as refused shards; returns how many became free."""
        return self._ledger.release(worker_id)

    def release(self, worker_id: str) -> int:
        """Take back what a dead worker held, to be assigned again; returns how many shards that were."""
        self._released.add(worker_id)
        return self._ledger.release(worker_id)

    def is_released(self, worker_id: str) -> bool:
        """Whether a worker was taken for dead: it gets nothing any more."""
        return worker_id in self._released

    def accept(self, worker_id: str, base: int, report: ShardReport) -> GradientKey | None:
        """Take a report of a gradient at parameters of `base` updates in: its key if it counts.

        It does not if its shard is here already (a repeat), or if the policy refuses its staleness: then the shard
        stays the worker's until it asks for more, and is handed out anew.
        """
        if self.is_done:
            return None
        shard = report.shard
        key = GradientKey(shard.version, shard.index, base)
        self._tally.num_bytes += self._bytes_of(self._plan.aggregation.gradient_wire)
        if not self._ledger.is_open(shard):
            self._tally.repeats += 1
            if key not in self._gathered:
                self._unused.append(key)
            return None
        if base > self._num_updates or not self._policy.admits(self._number_of_next - base):
            self._tally.refused_pushes += 1
            self._unused.append(key)
            return None
        self._ledger.gather(worker_id, shard, self._clock())
        self._gathered[key] = report
        self._queue.put(key)
        self._tally.computed(worker_id, report.compute_s)
        waiting = len(self._gathered) if self._under_way else self._queue.num_early
        self._tally.queue_length = max(self._tally.queue_length, waiting)
        return key

    def sent_parameters(self) -> None:
        """A worker is given the parameters."""
        self._tally.num_bytes += self._bytes_of(self._plan.aggregation.parameter_wire)

    def waited(self, seconds: float) -> None:
        """A worker waited for its shards."""
        self._tally.waiting_s += seconds

    @property
    def summable(self) -> Sequence[GradientKey]:
        """The first gradients of the next update, as far as they are here and their order is settled."""
        return self._queue.next

    def next_update(self) -> Update | None:
        """The update that is due, if one is and none is under way; `finish_update` must follow."""
        if self._under_way is not None or not self._queue.num_updates or self.is_done:
            return None
        keys = self._queue.take()
        reports = {key: self._gathered.pop(key) for key in keys}
        shard = reports[keys[0]].shard
        scale = 1.0 if self._updates_per_step == 1 else shard.meta_batch / shard.num_tasks
        oldest_base = 0 if self._policy.num_ahead is None else self._num_updates - self._policy.num_ahead
        front = self._ledger.first_open_version
        update = Update(self._num_updates, self._version, keys, scale, tuple(self._unused), oldest_base, front)
        self._unused.clear()
        self._under_way = (update, reports)
        self.refreshes.gather(self._version, list(reports.values()))
        return update

    def finish_update(self, made: Made) -> StepRecord | None:
        """The update is made, or refused if its norm is not finite; the record of the meta-step if this ends one."""
        if self._under_way is None:
            raise RuntimeError("no update is under way")
        update, reports = self._under_way
        self._under_way = None
        self._ledger.count([(key.version, key.index) for key in update.keys])
        self._tally.updated(reports, update.number, made.norm)
        self._num_tasks += sum(report.num_tasks for report in reports.values())
        if not math.isfinite(made.norm):
            self._refuse(None if made.not_finite is None else reports[update.keys[made.not_finite]].shard)
        self._num_updates += 1
        return self._close_step() if self._num_updates % self._updates_per_step == 0 else None

    def checkpoint(self, vectors: SliceState) -> Checkpoint:
        """All that a run needs to continue from here, with the whole of the vectors as they are now."""
        start = self._ledger.open_shards()
        return Checkpoint(
            version=self._version,
            parameters=vectors.parameters,
            parameter_shapes=self._plan.parameter_shapes,
            optimizer=self._plan.optimizer.name,
            optimizer_state=vectors.optimizer_state,
            settings_yaml=self._plan.settings_yaml,
            num_tasks=self._num_tasks,
            num_refused=self._num_refused,
            train_seconds=self._train_seconds,
            average=vectors.average,
            open_shards=None if start[:2] == (self._version * self._plan.num_shards, ()) else start,
            mode_state=self.refreshes.state,
            pending=self.refreshes.pending,
            task_form=self._plan.task_form,
        )

    @property
    def _end(self) -> int:
        """The position of the first shard that is not to be computed yet."""
        ahead = self._policy.num_ahead
        last = self._plan.num_steps if ahead is None else min(self._plan.num_steps, self._version + 1 + ahead)
        return last * self._plan.num_shards

    @property
    def _is_full(self) -> bool:
        """Whether a meta-step's gradients wait and no bound keeps more from coming: then nothing is assigned."""
        return self._policy.num_ahead is None and len(self._queue) >= self._plan.num_shards

    @property
    def _number_of_next(self) -> int:
        """The update that a gradient accepted now takes part in: after the one under way and those that wait."""
        return self._num_updates + (self._under_way is not None) + self._queue.num_updates

    def _bytes_of(self, wire: WireType) -> int:
        return NUM_BYTES[wire] * self._plan.num_parameters

    def _close_step(self) -> StepRecord:
        now = self._clock()
        step_s = now - self._step_started if self._step_started is not None else 0.0
        self._step_started = now
        self._train_seconds += step_s
        learning_rate = self._plan.optimizer.learning_rate_at(self._version, self._plan.num_steps)
        self._version += 1
        news = self.refreshes.close()
        record = self._tally.record(self._version, learning_rate, step_s, self._num_refused, news)
        self._tally = StepTally()
        return record

    def _refuse(self, shard: Shard | None) -> None:
        self._num_refused += 1
        allowed = self._plan.optimizer.max_refused_steps
        if self._num_refused > allowed:
            self._failure = too_many_refused(self._version, shard, self._num_refused, allowed)
