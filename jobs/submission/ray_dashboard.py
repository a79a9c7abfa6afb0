"""Is there a Ray cluster at an address, does it let us in, and does it run our versions: answered within seconds.

Plain HTTP without Ray, whose client waits without a limit and imports for a second.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import NamedTuple
from urllib.parse import urlsplit

from cluster.errors import ClusterError
from cluster.secrets import without_password
from jobs.errors import UsageError

_TIMEOUT_S = 4.0
_ADDRESS = "RAY_API_SERVER_ADDRESS"
_TOKEN, _TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"  # Ray's own names
_HOW_TO = f"put the cluster's token into a file that {_TOKEN_PATH} names"


class Token(NamedTuple):
    """A cluster's token, and in words where it came from."""

    value: str
    origin: str


class Dashboard(NamedTuple):
    """A cluster that answered: its address, what its requests need, its versions."""

    url: str
    headers: Mapping[str, str]
    ray: str
    python: str


def dashboard_url(address: str | None, environment: Mapping[str, str]) -> str:
    """The dashboard that is meant; raises `UsageError` if none is, or an address of another kind.

    >>> dashboard_url("head:8265/", {}), dashboard_url(None, {"RAY_API_SERVER_ADDRESS": "https://ray.example"})
    ('http://head:8265', 'https://ray.example')
    """
    named = address or environment.get(_ADDRESS)
    if not named:
        raise UsageError(f"name the cluster: --address http://HOST:8265, or the variable {_ADDRESS}")
    url = (named if "://" in named else f"http://{named}").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--address {without_password(named)} must be that of the dashboard, http://HOST:8265")
    return url


def find_token(environment: Mapping[str, str], home: Path) -> Token | None:
    """The token where Ray looks for it: RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    Raises `ClusterError` for a file that is named and cannot be read.
    """
    if value := environment.get(_TOKEN, "").strip():
        return Token(value, _TOKEN)
    named = environment.get(_TOKEN_PATH)
    path = Path(named).expanduser() if named else home / ".ray" / "auth_token"
    try:
        value = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if not named:
            return None
        raise ClusterError(
            f"the token file {_TOKEN_PATH}={named} cannot be read ({getattr(error, 'strerror', error)}): {_HOW_TO}"
        ) from error
    return Token(value, f"{_TOKEN_PATH}={named}" if named else str(path)) if value else None


def find_dashboard(url: str) -> Dashboard:
    """Ask the cluster at `url`; raises `ClusterError` if there is none, or the token is missing or wrong."""
    try:
        mode = _get(url, "/api/authentication_mode", {}).get("authentication_mode")
    except PermissionError as error:
        raise ClusterError(
            f"{url} asks for a login before the dashboard's own (a proxy?): use the dashboard's address"
        ) from error
    token = find_token(os.environ, Path.home()) if mode == "token" else None
    if mode == "token" and token is None:
        raise ClusterError(f"the cluster at {url} asks for a token, and there is none here: {_HOW_TO}")
    headers = {} if token is None else {"Authorization": f"Bearer {token.value}"}
    try:
        metadata = _get(url, "/api/v0/cluster_metadata", headers)
    except PermissionError as error:
        origin = "" if token is None else f" in {token.origin}"
        raise ClusterError(f"the cluster at {url} refuses the token{origin}: {_HOW_TO}") from error
    data = metadata.get("data")
    found = data if isinstance(data, dict) else {}
    return Dashboard(url, headers, str(found.get("rayVersion", "?")), str(found.get("pythonVersion", "?")))


def require_same_versions(found: Dashboard) -> None:
    """Raise `ClusterError` unless Ray is the same here and there, and Python up to its patch level."""
    here = {"Ray": version("ray"), "Python": _minor(python_version())}
    there = {"Ray": found.ray, "Python": _minor(found.python)}
    different = [f"{name} {there[name]} and here is {name} {here[name]}" for name in here if here[name] != there[name]]
    if different:
        raise ClusterError(
            f"the cluster at {found.url} has {', '.join(different)}: use its versions here, or go on with --any-version"
        )


def _minor(number: str) -> str:
    """Python's version without the patch level."""
    return ".".join(number.split(".")[:2])


def _get(url: str, path: str, headers: Mapping[str, str]) -> dict[str, object]:
    """A JSON object; raises `ClusterError` where there is none, PermissionError where one may not look."""
    request = urllib.request.Request(f"{url}{path}", headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            tree = json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise PermissionError(path) from error
        raise _no_dashboard(url, f"{path} gives {error.code}") from error
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise ClusterError(
            f"no Ray cluster answers at {url} ({reason}): start it, or give the address of its dashboard with --address"
        ) from error
    except http.client.HTTPException as error:
        raise _no_dashboard(url, type(error).__name__) from error
    except ValueError as error:
        raise _no_dashboard(url, f"{path} gives no JSON") from error
    if not isinstance(tree, dict):
        raise _no_dashboard(url, f"{path} gives another kind of answer")
    return tree


def _no_dashboard(url: str, reason: str) -> ClusterError:
    return ClusterError(
        f"what answers at {url} is no dashboard of a Ray cluster ({reason}): --address wants that, port 8265 by default"
    )
