"""A Ray cluster for the length of one run: the one that is there, or one started in this machine and stopped again."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._raylet import AuthenticationTokenLoader, Config

_OBJECT_STORE_BYTES = 256 * 1024**2
_SYSTEM_CONFIG = {"max_direct_call_object_size": 1024**2}  # up to this size a value travels inside its call: 2 ms less


@contextmanager
def ray_cluster(folder: Path, num_cpus: int, num_parameters: int) -> Iterator[None]:
    """Ray inside the block: already initialised, or at RAY_ADDRESS, or on this machine for this run alone.

    A cluster of the run's own asks every connection for a token kept in `folder` (unless RAY_AUTH_MODE says what to
    do), has no dashboard, and is gone after the block, whatever ends it.
    """
    if ray.is_initialized():
        yield
        return
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level="warning")
            yield
            return
        with _token(folder):
            ray.init(
                num_cpus=num_cpus,
                object_store_memory=_OBJECT_STORE_BYTES + 64 * 4 * num_parameters,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="warning",
                _system_config=_SYSTEM_CONFIG,
            )
            yield
            ray.shutdown()
    finally:
        ray.shutdown()


@contextmanager
def _token(folder: Path) -> Iterator[None]:
    """Token authentication with a new token in `folder`, and the environment as before afterwards."""
    if "RAY_AUTH_MODE" in os.environ:
        yield
        return
    path = folder / ".ray-token"
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    mine = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path), "RAY_USAGE_STATS_ENABLED": "0"}
    before = {name: os.environ.get(name) for name in mine}
    _set_environment(mine)
    try:
        yield
    finally:
        _set_environment(before)
        path.unlink(missing_ok=True)


def _set_environment(values: dict[str, str | None] | dict[str, str]) -> None:
    """Set or unset environment variables, and have Ray read them again: it caches the mode and the token."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
