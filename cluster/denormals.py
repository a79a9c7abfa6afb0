"""Numbers too small for a normal float32 (below 1.2e-38), which processors handle a hundred times more slowly."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Count them as 0 inside the block, in this thread.

    A trained codebook gives most modes responsibilities that are as small: without this a flagship meta-step takes
    half as long again at the end of a run as at its beginning.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
