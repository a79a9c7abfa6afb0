"""Where runs are tracked: opening a store within seconds or saying at once that it does not answer."""

import logging
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock

from cluster.errors import UserError
from cluster.experiment_view import experiment_tags
from cluster.secrets import expanded, without_password

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


def store_uri(uri: str) -> str:
    """What a client of the store at `uri` is opened with: variables expanded, never to be shown or written down.

    Raises `UserError` for a variable that is not set.
    """
    return absolute_uri(uri if uri.startswith(_SQLITE) else expanded(uri))


def sqlite_file(uri: str) -> Path:
    """The absolute path of an SQLite store's file."""
    return Path(uri.removeprefix(_SQLITE)).absolute()


def missing_file(uri: str) -> Path | None:
    """The file of the SQLite store at `uri` if it is not there, and opening the store would make it; else None."""
    uri = store_uri(uri)
    file = sqlite_file(uri) if uri.startswith(_SQLITE) else None
    return None if file is None or file.exists() else file


def open_store(uri: str, remedy: str = _REMEDY) -> "MlflowClient":
    """A client of the store at `uri`, made and migrated first if it is a new SQLite file.

    Variables that it names are expanded. Raises `TrackingError`, within some ten seconds, for a store that does not
    answer or is none, with `remedy` at its end, and `UserError` for a variable that is not set.
    """
    shown, uri = without_password(uri), store_uri(uri)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print passwords
    _check_answers(uri, shown, remedy)
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
            f"the tracking store {shown} cannot be opened ({first_sentence(error)}): {remedy}"
        ) from error
    return client


def experiment_id(client: "MlflowClient", uri: str) -> str:
    """The experiment of all runs, made if it is missing; beside an SQLite file stands the folder of its artefacts.

    Raises `TrackingError` if somebody deleted it.
    """
    shown, uri = without_password(uri), store_uri(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        location = (sqlite_file(uri).parent / "artifacts").as_uri() if uri.startswith(_SQLITE) else None
        try:
            return client.create_experiment(EXPERIMENT, artifact_location=location, tags=experiment_tags())
        except Exception:  # MLflow's errors have no kind in common; another run may have made it meanwhile
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise TrackingError(f"the experiment {EXPERIMENT} was deleted in {shown}: restore it there, or {_REMEDY}")
    return experiment.experiment_id


def find_run_id(client: "MlflowClient", uri: str, tag: str, value: str) -> str | None:
    """The newest run that has a tag; None if there is none."""
    quote = '"' if "'" in value else "'"
    where = f"tags.`{tag}` = {quote}{value}{quote}"
    found = client.search_runs([experiment_id(client, uri)], where, max_results=1, order_by=["start_time DESC"])
    return found[0].info.run_id if found else None


def first_sentence(error: Exception) -> str:
    """The beginning of an error's text, which in MLflow may fill a page and quote URIs."""
    return without_password(str(error).strip().partition("\n")[0].partition(". ")[0])


def _check_answers(uri: str, shown: str, remedy: str) -> None:
    """Raise `TrackingError` unless a server named in `uri` takes connections (and HTTP servers answer)."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if not parts.hostname or scheme not in _PORTS:
        return
    try:
        if scheme in ("http", "https"):
            place = parts.netloc.rpartition("@")[2]  # urllib takes a password for a port
            health = urlunsplit((scheme, place, f"{parts.path.rstrip('/')}/health", "", ""))
            urllib.request.urlopen(health, timeout=_TIMEOUT_S).close()
        else:
            socket.create_connection((parts.hostname, parts.port or _PORTS[scheme]), _TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        error.close()
        return  # an answer, if not a welcome: the client's own request says more
    except (OSError, ValueError) as error:
        reason = (getattr(error, "reason", None) or error) if isinstance(error, OSError) else "it is no URI"
        raise TrackingError(f"the tracking server {shown} does not answer ({reason}): start it, or {remedy}") from error
