"""Accepted gradients in the order in which they are summed, whether for the next update or for those after it."""

from collections.abc import Sequence

from cluster.shards import GradientKey


class UpdateQueue:
    """Gradients that wait, `num_in_update` to an update; more than one update's wait while one takes its time.

    If `is_ordered`, their order is that of a meta-batch's shards, and one that comes before those in front of it is
    early; else it is that in which they come.
    """

    def __init__(self, num_in_update: int, is_ordered: bool) -> None:
        self._num_in_update, self._is_ordered = num_in_update, is_ordered
        self._early: dict[int, GradientKey] = {}
        self._keys: list[GradientKey] = []

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def num_early(self) -> int:
        """Gradients that wait for one in front of them, which `len` does not count."""
        return len(self._early)

    @property
    def num_updates(self) -> int:
        """Updates whose gradients are all here."""
        return len(self._keys) // self._num_in_update

    @property
    def next(self) -> Sequence[GradientKey]:
        """The first gradients of the next update, as far as they are here and their order is settled."""
        return self._keys[: self._num_in_update]

    def put(self, key: GradientKey) -> None:
        """A gradient is here."""
        if not self._is_ordered:
            self._keys.append(key)
            return
        self._early[key.index] = key
        while len(self._keys) in self._early:
            self._keys.append(self._early.pop(len(self._keys)))

    def take(self) -> tuple[GradientKey, ...]:
        """The gradients of the next update, which is due (`num_updates`), off the queue."""
        keys = tuple(self.next)
        del self._keys[: self._num_in_update]
        return keys
