"""One process of a collective run: a replica of the server's state, and a share of every meta-gradient.

Every rank takes the same optimiser step on the same sum, so all hold the same parameters and nobody serves them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from cluster.checkpoint import Checkpoint
from cluster.code_version import require_code
from cluster.errors import ClusterError
from cluster.parameter_slice import ParameterSlice
from cluster.plan import StepRecord, TrainingPlan
from cluster.portions import add_up, portion
from cluster.refresh import Refreshes, join, refresh
from cluster.ring import Ring
from cluster.server_state import ServerState
from cluster.shards import ComputesMetaGradient, Shard, ShardReport, adopt_new, sum_by_name
from cluster.slice_state import SliceState
from cluster.threads import threads

_ALL = "ranks"  # to the server's state, all ranks are one worker that computes a meta-batch in one shard


class Diary(Protocol):
    """Where a rank writes what happened; all but `fail` is for rank 0. See `cluster.journal`."""

    @property
    def is_stopping(self) -> bool:
        """Whether the run is to end, as far as it is known here."""
        ...

    def add(self, record: StepRecord) -> None:
        """Take a meta-step in, without waiting."""
        ...

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint once every meta-step before it is taken in."""
        ...

    def fail(self, error: Exception) -> None:
        """End the run with an error."""
        ...


class Share(NamedTuple):
    """What a rank tells the others of a meta-step beside its gradient."""

    statistics: Mapping[str, float]
    compute_s: float
    is_stopping: bool
    has_failed: bool
    survey: np.ndarray | None = None


class Replica:
    """Runs the remaining meta-steps from `start`, which is the same on every rank, if this is `code`.

    `code` is the driver's `cluster.code_version`.
    """

    def __init__(self, plan: TrainingPlan, start: Checkpoint, ring: Ring, diary: Diary, code: str) -> None:
        self._plan, self._ring, self._diary, self._code = plan, ring, diary, code
        self._state = ServerState(replace(plan.server, num_shards=1), start)
        vectors = SliceState(start.parameters, start.optimizer_state, start.average)
        self._whole = ParameterSlice(plan.optimizer, plan.num_steps, "float32", vectors)
        self._saved = start.version
        self._compute: ComputesMetaGradient | None = None
        self._adopted: np.ndarray | None = None
        self._refreshes: Refreshes | None = None

    def run(self) -> None:
        """Go on until the run is over, stopped or failed on any rank; all ranks return at the same meta-step.

        What the computation raises goes to the diary: a rank that raised would leave the others waiting. Raises only
        what a lost rank does to the others' collectives.
        """
        with threads(self._plan.threads_per_worker):
            while not self._state.is_done and self._step():
                if self._state.is_checkpoint_due and not self._save():
                    return
        if self._state.failure is not None:
            self._fail(self._state.failure)
        elif self._state.version != self._saved:
            self._save()

    def _step(self) -> bool:
        """One meta-step; whether to go on."""
        (shard,) = self._state.assign(_ALL)
        mine = self._compute_mine(shard)
        if mine is None:
            share = Share({}, 0.0, is_stopping=False, has_failed=True)
        else:
            stopping = self._diary.is_stopping
            share = Share(mine.statistics, mine.compute_s, stopping, has_failed=False, survey=mine.survey)
        shares = self._ring.gather(share)
        if mine is None or any(share.has_failed for share in shares):
            return False
        statistics = sum_by_name([share.statistics for share in shares])
        longest = max(share.compute_s for share in shares)
        survey = join([share.survey for share in shares])
        record = self._update(ShardReport(shard, self._ring.total(mine.gradient), statistics, longest, survey))
        if record is None:
            return False
        if self._ring.index == 0:
            self._diary.add(record)
        return not any(share.is_stopping for share in shares)

    def _update(self, report: ShardReport) -> StepRecord | None:
        """Take the optimiser's step; the record has the bytes of a ring all-reduce. None if a refresh failed."""
        key = self._state.accept(_ALL, self._state.num_updates, report)
        if key is not None:
            self._whole.push(key, report.gradient)
        update = self._state.next_update()
        if self._state.refreshes.is_under_way and not self._refresh():
            return None
        record = None if update is None else self._state.finish_update(self._whole.make(update))
        if record is None:
            raise RuntimeError(f"the whole of meta-step {report.shard.version} did not make an update")
        num_bytes = 2 * (self._ring.size - 1) * report.gradient.nbytes
        return record._replace(num_bytes=num_bytes, queue_length=0, num_workers=self._ring.size)

    def _refresh(self) -> bool:
        """Rank 0 refreshes what was surveyed, and all take over what it found; whether it found anything."""
        refreshed, plan, survey = None, self._plan.refresh, self._state.refreshes.survey
        if self._ring.index == 0 and plan is not None and survey is not None:
            try:
                self._refreshes = self._refreshes or plan.build()
                refreshed = refresh(self._refreshes, self._whole.parameters, survey)
            except Exception as error:
                self._diary.fail(error)
        refreshed = self._ring.share(refreshed)
        if refreshed is not None:
            self._state.refreshes.deliver(refreshed)
        return refreshed is not None

    def _compute_mine(self, shard: Shard) -> ShardReport | None:
        """This rank's part of the meta-gradient; None if it failed, and the diary says why."""
        try:
            if self._compute is None:
                require_code(self._code)
                self._compute = self._plan.build_gradient()
            state = self._state.refreshes.state_at(shard.version)
            self._adopted = adopt_new(self._compute, state, self._adopted)
            pieces = portion(shard, self._plan.num_shards, self._ring.index, self._ring.size)
            return add_up(shard, [self._compute(self._whole.parameters, piece) for piece in pieces])
        except Exception as error:
            self._diary.fail(error)
            return None

    def _save(self) -> bool:
        """Write a checkpoint if all ranks agree on the parameters; whether they do."""
        digests = self._ring.gather(hashlib.sha256(self._whole.parameters.data).hexdigest())
        if len(set(digests)) > 1:
            self._fail(
                ClusterError(
                    f"the ranks hold different parameters after meta-step {self._state.version}: their machines "
                    "compute differently; use machines of one kind, or --cluster.strategy server"
                )
            )
            return False
        self._saved = self._state.version
        if self._ring.index == 0:
            self._diary.save(self._state.checkpoint(self._whole.state()))
        return True

    def _fail(self, error: Exception) -> None:
        if self._ring.index == 0:
            self._diary.fail(error)
