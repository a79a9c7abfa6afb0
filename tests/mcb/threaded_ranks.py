"""Ranks of a group as threads of one process, which exchange rows through shared memory."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

from mcb.split import Ranks

_TIMEOUT_S = 60.0
Result = TypeVar("Result")


class Exchange:
    """An all-to-all between `size` threads."""

    def __init__(self, size: int) -> None:
        self._barrier = Barrier(size, timeout=_TIMEOUT_S)
        self._sent: list[tuple[Tensor, ...]] = [()] * size

    def rank(self, rank: int) -> Ranks:
        def all_to_all(rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
            self._sent[rank] = rows.split(list(sent))
            self._barrier.wait()
            pieces = [others[rank] for others in self._sent]
            assert [len(piece) for piece in pieces] == list(received)
            self._barrier.wait()
            return torch.cat(pieces)

        return Ranks(rank, len(self._sent), all_to_all)


def on_ranks(size: int, function: Callable[[Ranks], Result]) -> list[Result]:
    """`function` on every rank at once."""
    exchange = Exchange(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: function(exchange.rank(rank)), range(size)))
