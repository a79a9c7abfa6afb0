"""A run that the tracking store has finished, as commands find it by a folder or an id."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.errors import UserError
from cluster.secrets import without_password
from cluster.tracking_store import absolute_uri, first_sentence, missing_file, open_store
from jobs.runs.folder import default_tracking_uri, find_run, require_whole

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


class TrackedRun(NamedTuple):
    """A finished run: its id, its store, and the figures of result.json."""

    run_id: str
    client: "MlflowClient"
    uri: str
    figures: dict[str, Any]


def find_tracked_run(name: str, tracking_uri: str | None, folder: Path) -> TrackedRun:
    """The run in the folder `name`, or of that id; files that are fetched go to `folder`.

    The store is `tracking_uri`, else that of the run's folder, else the one in runs/. Raises `UserError` for a store
    that does not answer, a run that it does not know, and one whose evaluation is not finished.
    """
    found = find_run(name)
    identity = {} if found is None or found.folder is None else found.folder.read_identity()
    run_id = identity.get("run_id", name)
    uri = absolute_uri(tracking_uri or identity.get("tracking_uri") or default_tracking_uri())
    client = _open(require_whole(uri))
    place = without_password(uri)
    try:
        client.get_run(run_id)
    except Exception as error:  # MLflow and its stores have no error in common
        raise UserError(
            f"there is no run {name} in {place} ({first_sentence(error)}): "
            "name a tracked run's folder or id, or give its --tracking-uri"
        ) from error
    result = fetch(client, run_id, "result.json", folder)
    if result is None:
        raise UserError(f"run {name} has no finished evaluation: let its training end first (mcb train --resume)")
    return TrackedRun(run_id, client, uri, json.loads(result.read_text()))


def fetch(client: "MlflowClient", run_id: str, name: str, folder: Path) -> Path | None:
    """An artefact of a run, here; None if it has none of that name. Raises `UserError` if it does not arrive."""
    parent = name.rpartition("/")[0]
    try:
        if name not in {file.path for file in client.list_artifacts(run_id, parent or None)}:
            return None
        return Path(client.download_artifacts(run_id, name, str(folder)))
    except Exception as error:  # as many kinds as there are artefact stores
        raise UserError(f"{name} of run {run_id} cannot be fetched: {first_sentence(error)}") from error


def _open(uri: str) -> "MlflowClient":
    """The store; one that is not there yet is not made."""
    if file := missing_file(uri):
        raise UserError(f"there is no tracking store at {file}: give the run's --tracking-uri")
    return open_store(uri, remedy="give another --tracking-uri")
