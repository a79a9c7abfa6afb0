"""The parameter server as a plain object: assignments out, reports in, a meta-step when all is there.

It knows no Ray and no learner. The actor (`server.py`) and the in-process run (`local.py`) are shells around it, which
is why they give the same bits.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np

from cluster.buffer import GradientBuffer
from cluster.checkpoint import Checkpoint
from cluster.errors import RefusedSteps
from cluster.ledger import ShardLedger
from cluster.optimizer import FlatOptimizer, gradient_norm
from cluster.plan import ServerPlan, StepRecord
from cluster.policies import ServerPolicy, Synchronous, num_to_assign
from cluster.shards import Shard, ShardReport, plan


class ServerState:
    """Meta-parameters, optimiser, and the meta-step being gathered, continued from a `checkpoint` that fits the plan.

    `cluster.checkpoint.require_fit` says whether it does.
    """

    def __init__(
        self,
        server_plan: ServerPlan,
        checkpoint: Checkpoint,
        policy: ServerPolicy | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._plan, self._policy, self._clock = server_plan, policy or Synchronous(), clock
        self._optimizer = FlatOptimizer(server_plan.optimizer, server_plan.num_steps, checkpoint.parameters)
        if checkpoint.optimizer_state:
            self._optimizer.load(checkpoint.optimizer_state)
        self._version = checkpoint.version
        self._num_tasks = checkpoint.num_tasks
        self._num_refused = checkpoint.num_refused
        self._train_seconds = checkpoint.train_seconds
        self._released: set[str] = set()
        self._failure: RefusedSteps | None = None
        self._step_started: float | None = None
        self._parameters = self._optimizer.parameters
        self._open_step()

    @property
    def version(self) -> int:
        """Meta-steps done."""
        return self._version

    @property
    def parameters(self) -> np.ndarray:
        """The present version's flat vector: read-only, and another array for every version."""
        return self._parameters

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
        """Shards of the present version for a worker that has nothing to do; empty if there are none for now.

        A worker that was released gets none: its question may still be here when it is dead.
        """
        if self.is_done or worker_id in self._released:
            return ()
        if self._step_started is None:
            self._step_started = self._clock()
        return self._ledger.take(worker_id, num_to_assign(self._ledger.num_free, self._plan.num_workers))

    def release(self, worker_id: str) -> int:
        """Take back what a dead worker held, to be assigned again; returns how many shards that were."""
        self._released.add(worker_id)
        return self._ledger.release(worker_id)

    def accept(self, worker_id: str, report: ShardReport) -> StepRecord | None:
        """Take a shard's report in; the record of the meta-step if this completes one.

        A report of a version that the policy does not admit, or of a shard that is already in, changes nothing.
        """
        if self.is_done or not self._policy.admits(report.shard.version, self._version):
            return None
        if not self._buffer.add(report):
            return None
        self._ledger.report(report.shard)
        self._compute_s[worker_id] += report.compute_s
        self._num_reported += 1
        if not self._policy.is_due(self._num_reported, self._plan.num_shards):
            return None
        return self._step()

    def checkpoint(self) -> Checkpoint:
        """A copy of all that a run needs to continue from the present version."""
        return Checkpoint(
            version=self._version,
            parameters=self._parameters,
            parameter_shapes=self._plan.parameter_shapes,
            optimizer=self._plan.optimizer.name,
            optimizer_state=self._optimizer.state(),
            settings_yaml=self._plan.settings_yaml,
            num_tasks=self._num_tasks,
            num_refused=self._num_refused,
            train_seconds=self._train_seconds,
        )

    def _open_step(self) -> None:
        shards = plan(self._version, self._plan.meta_batch, self._plan.num_shards)
        self._ledger = ShardLedger(shards)
        self._buffer = GradientBuffer(shards, len(self._parameters))
        self._compute_s: defaultdict[str, float] = defaultdict(float)
        self._num_reported = 0

    def _step(self) -> StepRecord:
        """Apply or refuse the gathered meta-gradient; either way the version is done, and other tasks come next."""
        norm = gradient_norm(self._buffer.gradient)
        if math.isfinite(norm):
            self._optimizer.step(self._buffer.gradient, norm, self._version)
            self._parameters = self._optimizer.parameters
        else:
            self._refuse()
        record = self._record(norm)
        self._version += 1
        self._num_tasks += self._plan.meta_batch
        self._open_step()
        return record

    def _refuse(self) -> None:
        self._num_refused += 1
        allowed = self._plan.optimizer.max_refused_steps
        if self._num_refused > allowed:
            shard = self._buffer.not_finite
            where = f"shard {shard.index} (tasks {shard.start} to {shard.stop - 1})" if shard else "its norm"
            self._failure = RefusedSteps(
                f"the meta-gradient of meta-step {self._version} is not finite in {where}; {self._num_refused} steps "
                f"were refused and max_refused_steps={allowed}: lower the learning rate, clip the gradient, or allow "
                "more, and resume from the last checkpoint"
            )

    def _record(self, norm: float) -> StepRecord:
        now = self._clock()
        step_s = now - self._step_started if self._step_started is not None else 0.0
        self._step_started = now
        self._train_seconds += step_s
        compute_s = min(step_s, max(self._compute_s.values(), default=0.0))
        sums, num_tasks = self._buffer.statistics, self._plan.meta_batch
        return StepRecord(
            version=self._version + 1,
            num_tasks=num_tasks,
            loss=sums["loss"] / num_tasks,
            nll=sums["nll"] / num_tasks,
            squared_error=sums["squared_error"] / num_tasks,
            per_mode=_means_by_mode(sums),
            gradient_norm=norm,
            learning_rate=self._plan.optimizer.learning_rate_at(self._version, self._plan.num_steps),
            tasks_per_s=num_tasks / step_s if step_s > 0 else math.inf,
            step_s=step_s,
            compute_s=compute_s,
            communication_s=step_s - compute_s,
            staleness_mean=0.0,
            staleness_max=0,
            refused=self._num_refused,
        )


def _means_by_mode(sums: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """`nll`, `squared_error` (means) and `count` of each mode, from sums named `nll/NAME` and so on."""
    names = [name.removeprefix("count/") for name in sums if name.startswith("count/")]
    return {
        name: {
            "nll": sums[f"nll/{name}"] / sums[f"count/{name}"],
            "squared_error": sums[f"squared_error/{name}"] / sums[f"count/{name}"],
            "count": sums[f"count/{name}"],
        }
        for name in names
    }
