"""What every test shares: shape checks on `mcb`, one thread, and one small Ray cluster for the session."""

import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

_TESTS = Path(__file__).parent
_COMPILED = "linear_head_kernels"  # numba compiles plain functions alone


def _checked_modules() -> list[str]:
    paths = sorted((_TESTS.parent / "mcb").rglob("*.py"))
    return [
        ".".join(path.relative_to(_TESTS.parent).with_suffix("").parts)
        for path in paths
        if path.stem not in ("__init__", _COMPILED)
    ]


_CHECKS = (
    None
    if os.environ.get("MCB_NO_TYPECHECK")
    else jaxtyping.install_import_hook(_checked_modules(), "beartype.beartype")
)
torch.set_num_threads(1)


_ON_THE_CLUSTER = {
    path.relative_to(_TESTS.parent).as_posix()
    for path in _TESTS.rglob("test_*.py")
    if re.search(r"^def test_\w+\(\s*ray_cluster\b", path.read_text(), re.MULTILINE)
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files on the shared Ray cluster come first and then those that start clusters: they take longest."""
    starts_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: (_file(item.nodeid) not in _ON_THE_CLUSTER, item.path not in starts_ray))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """`--dist loadfile` has one shared Ray cluster in all; other ways of distribution are pytest-xdist's."""
    return OneCluster(config, log) if config.getoption("dist") == "loadfile" else None


class OneCluster(LoadFileScheduling):
    """Gives each process whole files, for the sake of their fixtures, and one of them all that share a Ray cluster."""

    def _split_scope(self, nodeid: str) -> str:
        return "ray_cluster" if _file(nodeid) in _ON_THE_CLUSTER else _file(nodeid)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray with 4 logical CPUs, whose workers can import the packages and the test doubles."""
    import ray

    importable = [str(_TESTS.parent), str(_TESTS / "cluster"), *sys.path]
    environment = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(importable),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        ray.init(
            address="local",  # not another cluster that runs on this machine
            num_cpus=4,
            object_store_memory=200_000_000,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _system_config={"metrics_report_interval_ms": 2000},  # a fifth of what is usual
        )
        yield
        ray.shutdown()
