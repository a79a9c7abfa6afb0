"""How a flat vector is cut into slices, and its norm: both in fixed blocks, so that no number depends on the cut."""

import numpy as np

from cluster.errors import UserError

BLOCK = 64  # entries: whole vectors of every processor's arithmetic, so that an update rounds alike in any slice
_AT_ONCE = 2**20  # entries squared in float64 at a time: it bounds the memory


def slice_bounds(num_parameters: int, num_slices: int) -> tuple[int, ...]:
    """Where slices of near equal size begin, and where the last ends: multiples of `BLOCK`, but for the end.

    >>> slice_bounds(num_parameters=200, num_slices=2)
    (0, 128, 200)

    Raises `UserError` for more slices than blocks.
    """
    num_blocks = -(-num_parameters // BLOCK)
    if not 1 <= num_slices <= max(1, num_blocks):
        raise UserError(
            f"num_slices={num_slices} must lie in 1..{max(1, num_blocks)}: {num_parameters} meta-parameters are "
            f"{num_blocks} blocks of {BLOCK}, and a slice holds at least one"
        )
    return (*(BLOCK * (index * num_blocks // num_slices) for index in range(num_slices)), num_parameters)


def squared_sums(vector: np.ndarray) -> np.ndarray:
    """Sum of squares of each block, float64; those of two slices, put together, are those of the whole."""
    sums = []
    for start in range(0, len(vector), _AT_ONCE):
        squares = np.square(vector[start : start + _AT_ONCE], dtype=np.float64)
        whole = len(squares) // BLOCK * BLOCK
        sums.append(squares[:whole].reshape(-1, BLOCK).sum(axis=1))
        if whole < len(squares):
            rest = np.zeros(BLOCK)
            rest[: len(squares) - whole] = squares[whole:]
            sums.append(rest.sum(keepdims=True))
    return np.concatenate(sums) if sums else np.zeros(0)


def norm(sums: np.ndarray) -> float:
    """Euclidean norm of a vector with these `squared_sums`; infinite where float32 could not hold its square."""
    squared = float(sums.sum())
    return float("inf") if squared > float(np.finfo(np.float32).max) else squared**0.5
