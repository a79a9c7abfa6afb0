"""How the C library hands out memory: kept by the process once it has it."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_LARGEST_MMAP_THRESHOLD = 1 << 25  # glibc refuses a larger one
_NEVER_TRIM = (1 << 31) - 1


def keep_freed_memory() -> None:
    """Have freed memory used again instead of returned to the system; does nothing where the C library is not glibc.

    A meta-step allocates and frees the same tensors of some megabytes again and again. By default glibc maps each anew
    and gives it back, and the first touch of every page costs a fault: a quarter of the time of a flagship meta-step.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    try:
        mallopt = library.mallopt
    except AttributeError:  # musl has no such function
        return
    mallopt(_TRIM_THRESHOLD, _NEVER_TRIM)
    mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
