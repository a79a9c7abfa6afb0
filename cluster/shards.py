"""The plan of a meta-step: which tasks it has and how they are cut into shards, whoever computes them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from cluster.errors import UserError


class Shard(NamedTuple):
    """Tasks `start..stop` (global indices, end excluded) of meta-step `version`, the `index`-th piece of it.

    `meta_batch` is the number of tasks of the whole meta-step: the meta-gradient is a mean over all of them.
    `num_surveyed` is the number of tasks that the meta-step surveys beside them (`cluster.refresh`), 0 in most.
    """

    version: int
    index: int
    start: int
    stop: int
    meta_batch: int
    num_surveyed: int = 0

    @property
    def num_tasks(self) -> int:
        """Tasks in this shard."""
        return self.stop - self.start

    @property
    def surveyed(self) -> range:
        """The shard's part of the surveyed tasks, as large as its part of the meta-batch.

        >>> Shard(version=1, index=1, start=15, stop=20, meta_batch=10, num_surveyed=7).surveyed
        range(3, 7)
        """
        first = self.version * self.meta_batch
        start, stop = ((place - first) * self.num_surveyed // self.meta_batch for place in (self.start, self.stop))
        return range(start, stop)


class GradientKey(NamedTuple):
    """Which gradient: shard `index` of meta-batch `version`, at parameters that had seen `base` updates.

    Whoever computes it, the numbers are the same, so a gradient that arrives twice is known by its key.
    """

    version: int
    index: int
    base: int


class ShardReport(NamedTuple):
    """What a worker found for a shard: its share of the meta-gradient, flat float32, and sums over its tasks.

    `survey` has a row for each of the tasks that the shard surveys; None in a meta-step that surveys none.
    """

    shard: Shard
    gradient: np.ndarray
    statistics: Mapping[str, float]
    compute_s: float
    survey: np.ndarray | None = None

    @property
    def num_tasks(self) -> int:
        """Tasks that the sums run over."""
        return self.shard.num_tasks


class ComputesMetaGradient(Protocol):
    """The computation of a shard, a pure function of the parameters and the shard."""

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        """Meta-gradient and statistics of `shard` at the flat `parameters`, which may be read-only."""
        ...


@runtime_checkable
class AdoptsState(Protocol):
    """What the computation offers beside, where a learner has a state that is refreshed (`cluster.refresh`)."""

    def adopt(self, state: np.ndarray) -> None:
        """Compute every shard from here on under the flat `state`, which may be read-only."""
        ...


def adopt(compute: ComputesMetaGradient, state: np.ndarray) -> None:
    """Give a computation its state; raises TypeError for one that has none."""
    if not isinstance(compute, AdoptsState):
        raise TypeError(f"{type(compute).__name__} has no state to refresh: give it a method adopt(state)")
    compute.adopt(state)


def adopt_new(compute: ComputesMetaGradient, state: np.ndarray | None, adopted: np.ndarray | None) -> np.ndarray | None:
    """Give a computation its state, if there is one and it is another object than the one `adopted` last.

    Returns the one that it has now; raises as `adopt`.
    """
    if state is None or state is adopted:
        return adopted
    adopt(compute, state)
    return state


def plan(version: int, num_tasks: int, num_shards: int) -> tuple[Shard, ...]:
    """The shards of meta-step `version`: contiguous, in order, sizes differing by at most one task.

    Meta-step `v` has the global task indices `v * num_tasks` to `(v + 1) * num_tasks`.

    >>> [(shard.start, shard.stop) for shard in plan(version=1, num_tasks=5, num_shards=2)]
    [(5, 7), (7, 10)]

    Raises `UserError` unless 1 <= num_shards <= num_tasks.
    """
    if not 1 <= num_shards <= num_tasks:
        raise UserError(f"num_shards={num_shards} must lie in 1..num_tasks={num_tasks}")
    return tuple(shard_at(version * num_shards + index, num_tasks, num_shards) for index in range(num_shards))


def shard_at(position: int, num_tasks: int, num_shards: int) -> Shard:
    """The shard at a position of the run's stream: `num_shards` of each meta-step, one meta-step after the other."""
    version, index = divmod(position, num_shards)
    first = version * num_tasks
    start, stop = (first + number * num_tasks // num_shards for number in (index, index + 1))
    return Shard(version, index, start, stop, num_tasks)


def sum_by_name(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums over rows in their order; a name that a row lacks counts 0 there."""
    sums: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums
