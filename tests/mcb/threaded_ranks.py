"""A function on all ranks of a group at once, each a thread of this process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cluster.local_group import Exchange
from mcb.sharing import SharedByRanks

Result = TypeVar("Result")


def on_ranks(size: int, function: Callable[[SharedByRanks], Result]) -> list[Result]:
    """What each rank gives; raises what a rank raises."""
    exchange = Exchange(size)

    def on_rank(rank: int) -> Result:
        try:
            return function(exchange.rank(rank))
        except Exception:
            exchange.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(on_rank, range(size)))
