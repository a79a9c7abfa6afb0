"""A Ray cluster for the length of one run: the one that is there, or one started on this machine and stopped again."""

import importlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import ray
from ray.exceptions import AuthenticationError

from cluster.errors import ClusterError
from cluster.storage import absolute, is_url
from cluster.wire import DIRECT_BYTES

_OBJECT_STORE_BYTES = 256 * 1024**2
_SYSTEM_CONFIG = {
    "max_direct_call_object_size": DIRECT_BYTES,  # by default 100 kB; 2 ms less than through shared memory
    "worker_niceness": 0,  # that of the program that started the run; by default Ray's workers yield to everybody
}
_CONNECT_TIMEOUT_S = 5.0
_logger = logging.getLogger(__name__)


@contextmanager
def ray_cluster(location: str | Path, num_cpus: int, num_parameters: int) -> Iterator[None]:
    """Ray inside the block: already initialised, or at RAY_ADDRESS, or on this machine for this run alone.

    A cluster of the run's own asks every connection for a token (unless RAY_AUTH_MODE says what to do), kept in the
    folder `location` or, if that is a URL, in a folder of this block's own. It has no dashboard, and is gone after the
    block, whatever ends it. Raises `ClusterError` if no cluster answers at RAY_ADDRESS, or if it refuses the token.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    with _own_folder(location) as folder, _environment({} if address else _settings(folder)):
        try:
            if address:
                _connect(address)
            else:
                _warn_of_sharing(num_cpus, os.cpu_count() or 1)
                ray.init(
                    address="local",  # not another cluster that runs on this machine
                    num_cpus=num_cpus,
                    object_store_memory=_OBJECT_STORE_BYTES + 64 * 4 * num_parameters,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                    _system_config=dict(_SYSTEM_CONFIG),  # Ray writes into it
                )
            yield
        finally:
            ray.shutdown()
            _token_path(folder).unlink(missing_ok=True)


def _warn_of_sharing(asked: int, there: int) -> None:
    """A machine is taken to hold any number of processes: they may share a processor, but seldom gain by it."""
    if asked > there:
        _logger.warning(
            "%d processors are asked for, and this machine has %d: processes share them, so %d would be about as fast "
            "and want less memory",
            asked,
            there,
            there,
        )


def _connect(address: str) -> None:
    """Join the cluster; a plain HOST:PORT is called first, because Ray would try for minutes."""
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"RAY_ADDRESS={address} is a dashboard's: submit to it with mcb submit --address, or unset the variable to "
            "run on this machine"
        )
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "/" not in host:
            socket.create_connection((host, int(port)), _CONNECT_TIMEOUT_S).close()
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at RAY_ADDRESS={address}: start it, or unset the variable to run on this machine"
        ) from error
    except AuthenticationError as error:
        raise ClusterError(
            f"the Ray cluster at RAY_ADDRESS={address} asks for its token: set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN_PATH to the file that holds it"
        ) from error


def _settings(folder: Path) -> dict[str, str]:
    """What a cluster of the run's own reads from the environment; a new token is written to `folder`."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}
    if "RAY_AUTH_MODE" not in os.environ:
        path = _token_path(folder).absolute()
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    return settings


@contextmanager
def _own_folder(location: str | Path) -> Iterator[Path]:
    """A folder of this machine: `location` if it is one."""
    if is_url(location):
        with TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield Path(absolute(location))


def _token_path(folder: Path) -> Path:
    return folder / ".ray-token"


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """The environment with `settings` inside the block, and as before after it."""
    before = {name: os.environ.get(name) for name in settings}
    _apply(settings)
    try:
        yield
    finally:
        _apply(before)


def _apply(settings: Mapping[str, str | None]) -> None:
    """Set or unset environment variables, and have Ray read them again: it caches the mode and the token."""
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    raylet = importlib.import_module("ray._raylet")  # no public name does this
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
