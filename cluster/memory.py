"""How a process that computes gets its memory: kept once it has it, in large pages."""

import ctypes
import os
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


def use_huge_pages() -> None:
    """Have torch ask the kernel for huge pages, in tensors of 2 MiB and more, unless the environment says otherwise.

    With pages of 4 KiB a meta-step misses the address translation of what it reads again and again: 5 to 10 % of its
    time. Torch reads the variable when it makes its first tensor; only Linux has such pages to give.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
