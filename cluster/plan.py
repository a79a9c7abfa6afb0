"""What a run is asked to do and what it gives back: plain frozen values, checked where they enter."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from cluster.aggregation import AggregationPlan
from cluster.blocks import slice_bounds
from cluster.errors import UserError, require_at_least
from cluster.group_plan import GroupPlan
from cluster.optimizer import require_optimizer
from cluster.optimizer_plan import OptimizerPlan
from cluster.policies import num_useful_workers
from cluster.refresh import RefreshPlan
from cluster.shards import ComputesMetaGradient
from cluster.storage import absolute


@dataclass(frozen=True)
class ServerPlan:
    """What the parameter server needs to know of a run; it knows no learner and no tasks."""

    num_steps: int
    meta_batch: int
    num_shards: int
    max_workers: int
    optimizer: OptimizerPlan
    aggregation: AggregationPlan
    parameter_shapes: Mapping[str, tuple[int, ...]]
    checkpoint_dir: str
    checkpoint_every: int
    checkpoint_keep: int
    settings_yaml: str
    refresh: RefreshPlan | None = None
    task_form: Mapping[str, object] = field(default_factory=dict)

    @property
    def max_calls(self) -> int:
        """Questions that the server has room for at once: two of every worker, for dead ones', and the driver's."""
        return 2 * self.max_workers + 100

    @property
    def num_parameters(self) -> int:
        """Length of the flat vector of meta-parameters."""
        return sum(math.prod(shape) for shape in self.parameter_shapes.values())


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """A whole meta-training run; the result depends on no field that counts machines.

    `build_gradient` makes the shard computation inside each worker and must be picklable. `parameters` is the initial
    flat vector, float32, `parameter_shapes` the name and shape of each entry of it, in order
    (`cluster.gradient.initial_parameters`, `parameter_shapes`). `strategy` says who sums gradients: a parameter server,
    as `aggregation` says, or the workers among themselves by all-reduce. `num_workers=0` trains in this process,
    without Ray; more workers than can have something to do at once are not started. Each is one process, or a `group`
    of ranks that share its shards out, and has for each of its processes `threads_per_worker` torch threads and
    `gpus_per_worker` of a GPU. The run begins once `min_workers` (None: all) have a place, for which it waits
    `start_timeout_s`, and goes on with what is left when nodes leave; it ends, saved, when fewer than `min_workers`
    (None: one) are left for `regrow_timeout_s`. A checkpoint is written every `checkpoint_every` meta-steps and at the
    end into `checkpoint_dir`, a folder or fsspec URL; the newest `checkpoint_keep` are kept. `refresh` says how the
    state of a learner that has one is refreshed; its computation must then offer `cluster.shards.AdoptsState`.
    """

    build_gradient: Callable[[], ComputesMetaGradient]
    parameters: np.ndarray
    parameter_shapes: Mapping[str, tuple[int, ...]]
    num_steps: int
    meta_batch: int
    checkpoint_dir: str | Path
    num_shards: int = 2
    strategy: Literal["server", "collective"] = "server"
    num_workers: int = 0
    threads_per_worker: int = 1
    gpus_per_worker: float = 0.0
    group: GroupPlan | None = None
    min_workers: int | None = None
    start_timeout_s: float = 8.0
    regrow_timeout_s: float = 600.0
    optimizer: OptimizerPlan = field(default_factory=OptimizerPlan)
    aggregation: AggregationPlan = field(default_factory=AggregationPlan)
    checkpoint_every: int = 200
    checkpoint_keep: int = 3
    settings_yaml: str = ""
    resume: bool = False
    refresh: RefreshPlan | None = None
    task_form: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise `UserError` for a value out of its range; tell the optimiser the parameters' shapes."""
        counts = {name: getattr(self, name) for name in ("num_steps", "meta_batch", "threads_per_worker")}
        require_at_least(1, **counts, checkpoint_every=self.checkpoint_every, checkpoint_keep=self.checkpoint_keep)
        require_at_least(0, num_workers=self.num_workers)
        if self.strategy not in ("server", "collective"):
            raise UserError(f"strategy={self.strategy!r} must be 'server' or 'collective'")
        if not 0 <= self.gpus_per_worker <= 1:
            raise UserError(f"gpus_per_worker={self.gpus_per_worker} must lie in 0..1: a process computes on one GPU")
        if self.gpus_per_worker and self.group is not None and self.num_workers == 0:
            raise UserError("ranks_per_worker of 2 or more on a GPU need processes of their own: give num_workers >= 1")
        if self.min_workers is not None and not 1 <= self.min_workers <= max(1, self.num_workers):
            raise UserError(f"min_workers={self.min_workers} must lie in 1..num_workers={self.num_workers}")
        if not 1 <= self.num_shards <= self.meta_batch:
            raise UserError(f"num_shards={self.num_shards} must lie in 1..meta_batch={self.meta_batch}")
        if self.parameters.dtype != np.float32 or self.parameters.shape != (self.server.num_parameters,):
            raise UserError(
                f"the initial parameters are {self.parameters.dtype} of shape {self.parameters.shape}, "
                f"but the parameter shapes ask for float32 of shape ({self.server.num_parameters},)"
            )
        if not np.isfinite(self.parameters).all():
            raise UserError("the initial parameters hold a value that is not finite")
        require_optimizer(self.optimizer, self.aggregation.num_slices)
        shapes = tuple(tuple(shape) for shape in self.parameter_shapes.values())
        object.__setattr__(self, "optimizer", replace(self.optimizer, shapes=shapes))  # the class is frozen
        slice_bounds(len(self.parameters), self.aggregation.num_slices)
        if self.refresh is not None and not self.aggregation.policy.is_ordered:
            raise UserError(
                f"policy={type(self.aggregation.policy).__name__} has gradients of several states in one update: modes "
                "that are refreshed need --cluster.policy.kind sync"
            )
        if self.strategy == "collective":
            _require_defaults(self.aggregation)
            if self.group is not None:
                raise UserError(
                    f"ranks_per_worker={self.group.num_ranks} is for a parameter server's workers: leave it at 1 under "
                    "strategy='collective', or choose --cluster.strategy server"
                )

    @property
    def max_workers(self) -> int:
        """Workers at the most: more than can have a shard (a task, if `collective`) at once would do nothing."""
        if self.strategy == "collective":
            return min(self.num_workers, self.meta_batch)
        return min(self.num_workers, num_useful_workers(self.aggregation.policy, self.num_shards, self.num_steps))

    @property
    def ranks_per_worker(self) -> int:
        """Processes of each worker."""
        return 1 if self.group is None else self.group.num_ranks

    @property
    def min_to_start(self) -> int:
        """Workers that the run begins with at the least."""
        return self.max_workers if self.min_workers is None else min(self.max_workers, self.min_workers)

    @property
    def min_to_go_on(self) -> int:
        """Workers that a run goes on with at the least."""
        return min(self.max_workers, 1 if self.min_workers is None else self.min_workers)

    @property
    def server(self) -> ServerPlan:
        """The part that the parameter server is given."""
        return ServerPlan(
            num_steps=self.num_steps,
            meta_batch=self.meta_batch,
            num_shards=self.num_shards,
            max_workers=self.max_workers,
            optimizer=self.optimizer,
            aggregation=self.aggregation,
            parameter_shapes=self.parameter_shapes,
            checkpoint_dir=absolute(self.checkpoint_dir),
            checkpoint_every=self.checkpoint_every,
            checkpoint_keep=self.checkpoint_keep,
            settings_yaml=self.settings_yaml,
            refresh=self.refresh,
            task_form=self.task_form,
        )


class StepRecord(NamedTuple):
    """One meta-step as it is logged. Losses are means over tasks; a refused step's may be NaN.

    `version` counts the meta-steps done, this one included. `per_mode` holds, for each true mode with tasks in the
    meta-batch, `nll`, `squared_error` and `count`. `gradient_norm` is taken before clipping, a mean over the updates
    of an asynchronous meta-step. `compute_s` is the longest that any worker computed, `communication_s` the rest of
    `step_s`. Staleness is in updates of the parameters. `refused` counts the refused steps of the run so far, this
    one included. `queue_length` is the largest number of gradients that waited at the server, for a shard before
    theirs or for the update under way; `refused_pushes` those too stale to count and `repeats` those of a shard that
    was already there; `num_bytes` what gradients and parameters took on the wire; `waiting_s` what workers, all
    together, waited for a shard; `refresh` the metrics of the refresh that this meta-step was the first to see.
    `num_workers` had a place on the cluster, none where the driver computes; `restarts` counts the workers, servers and
    slices that were replaced since the driver started.
    """

    version: int
    num_tasks: int
    loss: float
    nll: float
    squared_error: float
    per_mode: dict[str, dict[str, float]]
    gradient_norm: float
    learning_rate: float
    tasks_per_s: float
    step_s: float
    compute_s: float
    communication_s: float
    staleness_mean: float
    staleness_max: int
    refused: int
    queue_length: int = 0
    refused_pushes: int = 0
    repeats: int = 0
    num_bytes: int = 0
    waiting_s: float = 0.0
    refresh: Mapping[str, float] = {}
    num_workers: int = 0
    restarts: int = 0


class TrainingResult(NamedTuple):
    """Where a run stands when it ends or is interrupted; counts include the steps before a resume.

    `params_sha256` is of the little-endian float32 bytes of `parameters`; `checkpoint` is a path or URL.
    `train_seconds` is the time spent in meta-steps: start-up and evaluation are not in it. `mode_state` is that of the
    last meta-step, in runs that refresh one.
    """

    parameters: np.ndarray
    params_sha256: str
    num_steps: int
    num_tasks: int
    train_seconds: float
    num_refused: int
    checkpoint: str
    interrupted: bool
    mode_state: np.ndarray | None = None


def _require_defaults(aggregation: AggregationPlan) -> None:
    """Raise `UserError` for the first setting of a parameter server that was changed."""
    for setting in fields(AggregationPlan):
        value, default = getattr(aggregation, setting.name), setting.default
        if value != default:
            raise UserError(
                f"{setting.name}={value} is for a parameter server, which strategy='collective' does without: "
                f"leave it at {default}, or choose --cluster.strategy server"
            )
