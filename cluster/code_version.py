"""What the bits of a result depend on beside the settings: the sources of this program and the libraries under them."""

import hashlib
import platform
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

from cluster.errors import ClusterError

_PACKAGES = ("mcb", "cluster", "jobs")
_LIBRARIES = ("torch", "numpy", "numba", "llvmlite", "pytorch-optimizer", "scikit-learn", "scipy")


@cache
def code_version() -> str:
    """Sources, libraries and Python of this process, in words; builds of one version (`+cpu`) count as one."""
    libraries = [f"{name} {version(name).partition('+')[0]}" for name in _LIBRARIES]
    python = ".".join(platform.python_version_tuple()[:2])
    return ", ".join([f"sources {digest(Path(__file__).parents[1])}", *libraries, f"Python {python}"])


def digest(root: Path) -> str:
    """The beginning of a SHA-256 over names and contents of the packages' sources below `root`."""
    total = hashlib.sha256()
    for path in sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py")):
        total.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:12]


def require_code(expected: str) -> None:
    """Raise `ClusterError` unless this process runs the code that the run was started with."""
    mine = code_version()
    if mine != expected:
        raise ClusterError(
            f"a process on {platform.node()} runs other code than the run: it has {mine}, the run {expected}; "
            "give every node the same image or working directory"
        )


class SameCode(str):
    """The run's code version as the first argument of an actor: only a process of that code can unpickle it.

    Ray tells of the first argument that fails, so other code is told as such, not as a class of the next arguments
    that is not there.
    """

    def __reduce__(self) -> tuple[Callable[[str], "SameCode"], tuple[str]]:
        """Unpickled as by `require_code`, which raises `ClusterError`."""
        return _same_code, (str(self),)


def _same_code(version: str) -> SameCode:
    require_code(version)
    return SameCode(version)
