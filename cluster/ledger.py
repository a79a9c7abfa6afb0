"""Who computes which shard of the present meta-step: free, held by a worker, or reported."""

from collections.abc import Sequence

from cluster.shards import Shard


class ShardLedger:
    """The shards that nobody reported yet, each free or held by one worker; taken in order."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._free = {shard.index: shard for shard in shards}
        self._held: dict[int, tuple[str, Shard]] = {}

    @property
    def num_free(self) -> int:
        """Shards that nobody holds."""
        return len(self._free)

    def take(self, worker_id: str, num: int) -> tuple[Shard, ...]:
        """Give the first `num` free shards to a worker, fewer if there are fewer."""
        taken = tuple(self._free.pop(index) for index in sorted(self._free)[:num])
        self._held.update({shard.index: (worker_id, shard) for shard in taken})
        return taken

    def report(self, shard: Shard) -> None:
        """Strike a shard out, whoever held it."""
        self._free.pop(shard.index, None)
        self._held.pop(shard.index, None)

    def release(self, worker_id: str) -> int:
        """Free what a worker held (it died); returns how many shards that were."""
        lost = [index for index, (holder, _) in self._held.items() if holder == worker_id]
        for index in lost:
            self._free[index] = self._held.pop(index)[1]
        return len(lost)
