"""How many threads torch computes with: part of what makes results equal bit for bit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(num: int) -> Iterator[None]:
    """Compute with `num` threads inside the block; reductions split over another number round differently."""
    previous = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(previous)
