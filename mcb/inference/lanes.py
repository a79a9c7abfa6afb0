"""What compiled code does with a tile of problems, one in each lane of the vector unit: the innermost axis has `LANES`.

numba recompiles a function when its own file changes, not when this one does: after an edit here, remove the compiled
files (`*.nbi`, `*.nbc` in `__pycache__`).
"""

import math
from collections.abc import Callable

from numba import njit

LANES = 64  # 16 of them fill a vector register; more spare loop overhead and still fit the cache


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Without the interpreter's lock, in IEEE arithmetic but for fused multiply-adds.

    The compiled code is kept beside the function's file, in the user's cache folder where that cannot be written, or
    where NUMBA_CACHE_DIR says; where none of these can be written it is compiled anew in every process, for some ten
    seconds.
    """
    options = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder for its cache
        return njit(**options)(function)


@njit(inline="always")
def set_lanes(target, source):
    """`target = source`."""
    for k in range(LANES):
        target[k] = source[k]


@njit(inline="always")
def add_product(total, a, b):
    """`total += a b`."""
    for k in range(LANES):
        total[k] += a[k] * b[k]


@njit(inline="always")
def invert(a, log_det, column, row, pivot):
    """`a` by its inverse, its log determinant added to `log_det`: a sweep for each pivot (see `batch_last`)."""
    S = a.shape[0]
    for p in range(S):
        for k in range(LANES):
            pivot[k] = a[p, p, k]
            log_det[k] += math.log(pivot[k])
        for i in range(S):
            for k in range(LANES):
                column[i, k] = a[i, p, k]
                row[i, k] = a[p, i, k] / pivot[k]
        for i in range(S):
            for j in range(S):
                for k in range(LANES):
                    a[i, j, k] -= column[i, k] * row[j, k]
        for i in range(S):
            for k in range(LANES):
                a[p, i, k] = row[i, k]
                a[i, p, k] = -column[i, k] / pivot[k]
        for k in range(LANES):
            a[p, p, k] = 1.0 / pivot[k]
