"""Decisions of the runtime as pure functions and values; whoever holds an actor carries them out."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cluster.errors import UserError

MAX_ASSIGNED = 4  # shards that a worker holds and reports at once: it bounds the message and what a death loses
_ENOUGH_TIMES = 5  # shard times that a median is taken of
_SHORTEST_STRAGGLER_S = 0.25  # less is the machine's noise, and not worth computing twice


class ServerPolicy(Protocol):
    """When the server takes a gradient, and when the parameters move.

    In every policy a meta-step is `num_shards` accepted gradients, each of another shard, so a run of `num_steps`
    uses every task of every meta-batch once. Staleness is the number of updates that the parameters saw between the
    moment when a gradient's worker was given them and the update that the gradient takes part in.
    """

    @property
    def is_ordered(self) -> bool:
        """Whether an update sums the shards of one meta-batch, in their order."""
        ...

    @property
    def num_ahead(self) -> int | None:
        """Meta-batches beyond the present one whose shards may be computed already; None: all."""
        ...

    def updates_per_step(self, num_shards: int) -> int:
        """Updates of the parameters that a meta-step makes."""
        ...

    def admits(self, staleness: int) -> bool:
        """Whether a gradient counts; what is refused is computed anew."""
        ...


@dataclass(frozen=True)
class Stale:
    """A meta-step is one update, by the sum of the first `num_shards` gradients at most `bound` updates old.

    Shards of up to `bound` later meta-batches are handed out meanwhile, so nobody waits for a slow worker. `bound` 0
    is the synchronous policy: an update waits for all shards of its own meta-batch, and the result is exact.
    """

    bound: int = 0

    def __post_init__(self) -> None:
        """Raise `UserError` for a bound below 0."""
        if self.bound < 0:
            raise UserError(f"staleness bound={self.bound} must be at least 0, the synchronous policy")

    @property
    def is_ordered(self) -> bool:
        """Only without staleness is it known beforehand which shards an update sums."""
        return self.bound == 0

    @property
    def num_ahead(self) -> int:
        """As far as a gradient of today may be used."""
        return self.bound

    def updates_per_step(self, num_shards: int) -> int:
        """One."""
        return 1

    def admits(self, staleness: int) -> bool:
        """At most `bound`; below 0 is a gradient from parameters that a restart took back."""
        return 0 <= staleness <= self.bound


SYNCHRONOUS = Stale(0)


@dataclass(frozen=True)
class Asynchronous:
    """Every accepted gradient is an update of its own, by the mean over its shard's tasks, however old it is."""

    @property
    def is_ordered(self) -> bool:
        """No."""
        return False

    @property
    def num_ahead(self) -> None:
        """No end but the run's."""
        return None

    def updates_per_step(self, num_shards: int) -> int:
        """One for every shard."""
        return num_shards

    def admits(self, staleness: int) -> bool:
        """All but a gradient from parameters that a restart took back."""
        return staleness >= 0


def num_to_assign(num_free: int, num_workers: int) -> int:
    """How many free shards to give a worker that asks: all to an only worker, else half of an equal share.

    Giving several at once spares a round trip each; giving fewer than a share lets a fast worker take over from a
    slow one (guided self-scheduling, Polychronopoulos & Kuck 1987).
    """
    share = num_free if num_workers <= 1 else -(-num_free // (2 * num_workers))
    return min(share, MAX_ASSIGNED)


def num_useful_workers(policy: ServerPolicy, num_shards: int, num_steps: int) -> int:
    """Workers that can hold a shard at the same time: more would wait for ever."""
    ahead = num_steps if policy.num_ahead is None else policy.num_ahead + 1
    return num_shards * min(ahead, num_steps)


def straggles_after_s(recent_s: Sequence[float], factor: float | None) -> float | None:
    """Seconds after which a shard is given to an idle worker as well: `factor` times the median of recent ones.

    None is never: without a factor, and as long as there are too few times to tell.
    """
    if factor is None or len(recent_s) < _ENOUGH_TIMES:
        return None
    return max(factor * statistics.median(recent_s), _SHORTEST_STRAGGLER_S)


class Deaths(NamedTuple):
    """Deaths since a meta-step was done last, be it again after a restore, and since one was done for the first time.

    >>> Deaths(3, 3).step(is_new=False)
    Deaths(since_step=0, since_new_step=3)
    """

    since_step: int = 0
    since_new_step: int = 0

    def die(self) -> "Deaths":
        """One more."""
        return Deaths(self.since_step + 1, self.since_new_step + 1)

    def step(self, is_new: bool) -> "Deaths":
        """A meta-step was done, which `is_new` or had been done before."""
        return Deaths(0, 0 if is_new else self.since_new_step)

    def may_replace(self, num_workers: int) -> bool:
        """Whether what died is replaced: a run that dies and gets nothing done in between is itself the cause.

        Three deaths a worker without any meta-step, or thirty with repeated ones alone: a meta-step that kills whoever
        does it is reached again and again from the checkpoint before it.
        """
        return self.since_step <= 3 * num_workers and self.since_new_step <= 30 * num_workers

    @property
    def complaint(self) -> str:
        """What `may_replace` says no to, in words."""
        if self.since_step == self.since_new_step:
            return f"{self.since_step} deaths came with no meta-step done in between"
        return f"{self.since_new_step} deaths came with no new meta-step done in between"
