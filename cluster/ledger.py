"""Who computes which shard of the run: free, held by a worker or several, gathered, or counted."""

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cluster.policies import straggles_after_s
from cluster.shards import Shard, shard_at

_NUM_RECENT = 64  # shard times that tell what is usual


class Holding(NamedTuple):
    """Since when a worker has had a shard, in seconds of the ledger's clock, and how much it was given at once.

    `work` counts in shards that survey nothing (`work_in`), so that times of meta-steps with and without a survey can
    be compared.
    """

    since: float
    work: float

    def shard_s(self, now: float) -> float:
        """What the time so far is for one shard, without its survey, of those given together."""
        return (now - self.since) / self.work


class OpenShards(NamedTuple):
    """Which shards of a run took part in no update yet: all from position `front` on, and those in `pending`.

    A *position* numbers the stream of shards: `version * num_shards + index`. What it stands for depends on how
    meta-batches are cut: `meta_batch` and `num_shards`, None in checkpoints of before they were written.
    """

    front: int
    pending: tuple[int, ...]
    num_shards: int | None = None
    meta_batch: int | None = None

    @property
    def num_counted(self) -> int:
        """Shards that took part in an update."""
        return self.front - len(self.pending)


def work_in(shards: Sequence[Shard]) -> float:
    """How many shards without a survey these are worth, if a surveyed task costs as much as one that is trained on.

    >>> work_in([Shard(version=0, index=0, start=0, stop=5, meta_batch=10, num_surveyed=20)])
    3.0
    """
    return sum((shard.num_tasks + len(shard.surveyed)) / shard.num_tasks for shard in shards)


class ShardLedger:
    """The stream of a run's shards from where it is open; handed out in order, first what was taken back.

    `num_surveyed` says of each meta-step how many tasks it surveys; by default none does.
    """

    def __init__(
        self, meta_batch: int, num_shards: int, start: OpenShards, num_surveyed: Callable[[int], int] | None = None
    ) -> None:
        self._meta_batch, self._num_shards, self._num_surveyed = meta_batch, num_shards, num_surveyed
        self._front, self._free = start.front, sorted(start.pending)
        self._held: dict[int, dict[str, Holding]] = {}
        self._held_by: defaultdict[str, set[int]] = defaultdict(set)
        self._gathered: set[int] = set()
        self._recent_s: deque[float] = deque(maxlen=_NUM_RECENT)

    def num_free(self, stop: int) -> int:
        """Free shards before position `stop`, of the first meta-batch that has one."""
        head = self._free[0] if self._free else self._front
        end = min(stop, (head // self._num_shards + 1) * self._num_shards)
        in_front = max(0, end - self._front)
        return in_front + sum(position < end for position in self._free)

    def take(self, worker_id: str, num: int, stop: int, now: float) -> tuple[Shard, ...]:
        """Give the first `num` free shards before position `stop` to a worker, fewer if there are fewer."""
        taken: list[int] = []
        while len(taken) < num and (position := self._next_free(stop)) is not None:
            taken.append(position)
        shards = tuple(self._shard(position) for position in taken)
        for position in taken:
            self._hold(worker_id, position, Holding(now, work_in(shards)))
        return shards

    def is_open(self, shard: Shard) -> bool:
        """Whether a gradient of the shard is wanted: it was handed out (to anybody) and none was gathered since."""
        position = self._position(shard)
        return self._shard(position) == shard and (position in self._held or position in self._free)

    def gather(self, worker_id: str, shard: Shard, now: float) -> None:
        """An open shard's gradient is here."""
        position = self._position(shard)
        holders = self._held.pop(position, {})
        if worker_id in holders:
            self._recent_s.append(holders[worker_id].shard_s(now))
        for holder in holders:
            self._held_by[holder].discard(position)
        if not holders:
            self._unfree(position)
        self._gathered.add(position)

    def count(self, shards: Sequence[tuple[int, int]]) -> None:
        """The gathered shards with these versions and indices took part in an update."""
        self._gathered.difference_update(version * self._num_shards + index for version, index in shards)

    def release(self, worker_id: str) -> int:
        """Free what a worker held unless another has it too; returns how many became free."""
        return sum(self._let_go(worker_id, position) for position in sorted(self._held_by[worker_id]))

    def open_shards(self) -> OpenShards:
        """What another ledger continues from: free, held and gathered shards are all to be computed again."""
        front, pending = self._front, sorted({*self._free, *self._held, *self._gathered})
        while pending and pending[-1] == front - 1:
            front = pending.pop()
        return OpenShards(front, tuple(pending), self._num_shards, self._meta_batch)

    @property
    def first_open_version(self) -> int:
        """The first meta-batch with a shard that took part in no update."""
        return min([self._front, *self._free, *self._held, *self._gathered]) // self._num_shards

    def tells_stragglers(self, factor: float | None) -> bool:
        """Whether the times of enough shards are known to say who takes too long."""
        return straggles_after_s(self._recent_s, factor) is not None

    def take_over(self, worker_id: str, factor: float | None, now: float) -> tuple[Shard, ...]:
        """Give the shard that its latest holder has had for too long to an idle worker as well; none if there is none.

        Holders so become more only as each proves slow, and no number of stalled workers can hold a run up.
        """
        found = self._slowest(worker_id, factor, now)
        if found is None or found[0] > 0:
            return ()
        shard = self._shard(found[1])
        self._hold(worker_id, found[1], Holding(now, work_in([shard])))
        return (shard,)

    def take_over_in_s(self, worker_id: str, factor: float | None, now: float) -> float | None:
        """Seconds until `take_over` would give this worker a shard, if nothing else happens; None: never."""
        found = self._slowest(worker_id, factor, now)
        return None if found is None else max(0.0, found[0])

    def _slowest(self, worker_id: str, factor: float | None, now: float) -> tuple[float, int] | None:
        """Seconds until the first shard that only others hold is overdue at its latest holder, and its position."""
        after_s = straggles_after_s(self._recent_s, factor)
        if after_s is None:
            return None
        waits = [
            (latest.since + after_s * latest.work - now, position)
            for position, holders in self._held.items()
            if worker_id not in holders
            for latest in [max(holders.values(), key=lambda holding: holding.since)]
        ]
        return min(waits, default=None)

    def _hold(self, worker_id: str, position: int, holding: Holding) -> None:
        self._held.setdefault(position, {})[worker_id] = holding
        self._held_by[worker_id].add(position)

    def _let_go(self, worker_id: str, position: int) -> bool:
        """Whether the shard became free."""
        holders = self._held.get(position, {})
        holders.pop(worker_id, None)
        self._held_by[worker_id].discard(position)
        if holders or position not in self._held:
            return False
        del self._held[position]
        heapq.heappush(self._free, position)
        return True

    def _next_free(self, stop: int) -> int | None:
        if self._free and self._free[0] < stop:
            return heapq.heappop(self._free)
        if not self._free and self._front < stop:
            self._front += 1
            return self._front - 1
        return None

    def _unfree(self, position: int) -> None:
        self._free.remove(position)
        heapq.heapify(self._free)

    def _position(self, shard: Shard) -> int:
        return shard.version * self._num_shards + shard.index

    def _shard(self, position: int) -> Shard:
        shard = shard_at(position, self._meta_batch, self._num_shards)
        return shard if self._num_surveyed is None else shard._replace(num_surveyed=self._num_surveyed(shard.version))
