"""Where runs are tracked: opening a store within seconds or saying at once that it does not answer."""

import logging
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from cluster.errors import UserError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "mcb-maml"
_TIMEOUT_S = 5.0
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SQLITE = "sqlite:///"
_REMEDY = "give another --tracking-uri, or go on without it by --tracking-optional"
# Read by MLflow at every request: a server that dies during a run must not hold the run up for minutes.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class TrackingError(UserError):
    """The tracking store cannot be opened."""


def absolute_uri(uri: str) -> str:
    """`uri`, with the file of an SQLite store made absolute, so that it means the same from any folder.

    >>> absolute_uri("http://tracking:5000"), absolute_uri("sqlite:////srv/mlflow.db")
    ('http://tracking:5000', 'sqlite:////srv/mlflow.db')
    """
    return f"{_SQLITE}{sqlite_file(uri)}" if uri.startswith(_SQLITE) else uri


def sqlite_file(uri: str) -> Path:
    """The absolute path of an SQLite store's file."""
    return Path(uri.removeprefix(_SQLITE)).absolute()


def without_password(uri: str) -> str:
    """`uri` as it may be shown.

    >>> without_password("postgresql://mcb:secret@db/mlflow")
    'postgresql://mcb:***@db/mlflow'
    """
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri


def open_store(uri: str, remedy: str = _REMEDY) -> "MlflowClient":
    """A client of the store at `uri` (absolute), made and migrated first if it is a new SQLite file.

    Raises `TrackingError`, within some ten seconds, for a store that does not answer or is none; it ends in `remedy`.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _check_answers(uri, remedy)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient  # two seconds to import

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        if uri.startswith(_SQLITE):
            file = sqlite_file(uri)
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock", timeout=120):  # two first runs at once would both migrate, and one would die
                client = MlflowClient(uri)
                client.search_experiments(max_results=1)
        else:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except Exception as error:  # MLflow, SQLAlchemy, drivers and the file system have no error in common
        raise TrackingError(
            f"the tracking store {without_password(uri)} cannot be opened ({first_sentence(error)}): {remedy}"
        ) from error
    return client


def experiment_id(client: "MlflowClient", uri: str) -> str:
    """The experiment of all runs, made if it is missing; beside an SQLite file stands the folder of its artefacts."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return experiment.experiment_id
    location = (sqlite_file(uri).parent / "artifacts").as_uri() if uri.startswith(_SQLITE) else None
    return client.create_experiment(EXPERIMENT, artifact_location=location)


def first_sentence(error: Exception) -> str:
    """The beginning of an error's text, which in MLflow may fill a page."""
    return str(error).strip().partition("\n")[0].partition(". ")[0]


def _check_answers(uri: str, remedy: str) -> None:
    """Raise `TrackingError` unless a server named in `uri` takes connections (and HTTP servers answer)."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if not parts.hostname or scheme not in _PORTS:
        return
    try:
        if scheme in ("http", "https"):
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_TIMEOUT_S).close()
        else:
            socket.create_connection((parts.hostname, parts.port or _PORTS[scheme]), _TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return  # an answer, if not a welcome: the client's own request says more
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise TrackingError(
            f"the tracking server {without_password(uri)} does not answer ({reason}): start it, or {remedy}"
        ) from error
