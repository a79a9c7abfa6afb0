"""MLflow's registry of models: who has an alias, what a version holds, a new version."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import UserError
from cluster.tracking_store import first_sentence, store_uri
from jobs.models.contenders import Contender
from jobs.runs.tracked_run import TrackedRun

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

_VARIABLE = "MLFLOW_TRACKING_URI"


def holder(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    """The version of a registered model that has an alias; None if there is no such model or alias."""
    from mlflow.exceptions import MlflowException

    try:
        number = client.get_registered_model(name).aliases.get(alias)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return None if number is None else client.get_model_version(name, str(number))


def model_of(version: "ModelVersion") -> str | None:
    """The id of the logged model that a version is (its own `model_id` is empty in what a search finds)."""
    source = version.source or ""
    return source.removeprefix("models:/") if source.startswith("models:/m-") else None


def fetch_version(client: "MlflowClient", uri: str, version: "ModelVersion", folder: Path) -> Contender:
    """The files of a version, fetched from the store at `uri`; raises `UserError` if it is no model of this program."""
    from mlflow.artifacts import download_artifacts

    try:
        where, logged = client.get_model_version_download_uri(version.name, str(version.version)), model_of(version)
        if logged is not None:
            where = client.get_logged_model(logged).artifact_location
        store = store_uri(uri)
        files = Path(download_artifacts(artifact_uri=f"{where}/artifacts", dst_path=str(folder), tracking_uri=store))
    except Exception as error:  # MLflow and its artefact stores have no error in common
        raise UserError(f"its files cannot be fetched ({first_sentence(error)})") from error
    checkpoints, tasks = list(files.glob("*.mcb")), list(files.glob("test_tasks.parquet"))
    if len(checkpoints) != 1:
        raise UserError(f"it holds {len(checkpoints)} checkpoints, and a model of this program holds one")
    return Contender(checkpoints[0], tasks[0] if tasks else None)


def add_version(run: TrackedRun, name: str, model_id: str, description: str) -> "ModelVersion":
    """The version of the registered model that is this logged model: the one that there is, or a new one.

    MLflow looks for the logged model in the store that the environment names, not in the client's.
    """
    from mlflow.exceptions import MlflowException

    try:
        run.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for known in run.client.search_model_versions(f"run_id = '{run.run_id}'"):
        if (known.name, model_of(known)) == (name, model_id):
            return known
    with _environment_names(run.uri):
        return run.client.create_model_version(
            name, f"models:/{model_id}", run.run_id, description=description, model_id=model_id
        )


@contextmanager
def _environment_names(uri: str) -> Iterator[None]:
    """MLFLOW_TRACKING_URI is `uri` for the length of the block."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = store_uri(uri)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before
