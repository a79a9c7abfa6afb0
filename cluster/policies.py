"""Decisions of the runtime as pure functions and values; whoever holds an actor carries them out."""

from dataclasses import dataclass
from typing import Protocol

MAX_ASSIGNED = 4  # shards that a worker holds and reports at once: it bounds the message and what a death loses


class ServerPolicy(Protocol):
    """When the server takes a gradient, and when it takes a step."""

    def admits(self, shard_version: int, server_version: int) -> bool:
        """Whether a gradient computed at `shard_version` counts for the step that the server is gathering."""
        ...

    def is_due(self, num_reported: int, num_shards: int) -> bool:
        """Whether the gathered gradients make a step."""
        ...


@dataclass(frozen=True)
class Synchronous:
    """A step waits for all shards of its own version: staleness is 0 and the result exact."""

    def admits(self, shard_version: int, server_version: int) -> bool:
        """Only the present version's shards count; an older one is a repeat of a shard already summed."""
        return shard_version == server_version

    def is_due(self, num_reported: int, num_shards: int) -> bool:
        """Once every shard is in."""
        return num_reported == num_shards


def num_to_assign(num_free: int, num_workers: int) -> int:
    """How many free shards to give a worker that asks: all to an only worker, else half of an equal share.

    Giving several at once spares a round trip each; giving fewer than a share lets a fast worker take over from a
    slow one (guided self-scheduling, Polychronopoulos & Kuck 1987).
    """
    share = num_free if num_workers <= 1 else -(-num_free // (2 * num_workers))
    return min(share, MAX_ASSIGNED)


def may_replace_worker(deaths_since_step: int, num_workers: int) -> bool:
    """Whether a dead worker is replaced: not when workers keep dying and no meta-step is made in between."""
    return deaths_since_step <= 3 * num_workers
