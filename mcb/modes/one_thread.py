"""One thread for numpy, scipy and scikit-learn: sums over another number of threads round differently."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from threadpoolctl import threadpool_limits

_WITH_THREADS = ("scipy.linalg", "scipy.optimize", "sklearn.cluster", "sklearn.metrics", "sklearn.mixture")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside the block.

    A limit reaches only libraries that are loaded, so what modes import late is imported first.
    """
    for name in _WITH_THREADS:
        import_module(name)
    with threadpool_limits(limits=1):
        yield
