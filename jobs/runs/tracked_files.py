"""Checkpoints out of an MLflow store: those of runs and those of registered models. Nothing else is downloaded."""

from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from cluster.errors import UserError
from cluster.secrets import without_password
from cluster.tracking_store import (
    TrackingError,
    absolute_uri,
    first_sentence,
    missing_file,
    open_store,
    store_uri,
)
from jobs.errors import nearest
from jobs.runs.folder import default_tracking_uri

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking import MlflowClient

_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth")
_REMEDY = "give the store of the model by --tracking-uri or MLFLOW_TRACKING_URI"
_FORMS = "models:/NAME@ALIAS or models:/NAME/VERSION"


def run_checkpoint(run_id: str, tracking_uri: str | None) -> Path:
    """The newest checkpoint that a tracked run keeps, on this machine; raises `UserError` if there is none."""
    client = _open(f"run {run_id}", tracking_uri)
    try:
        files = [file.path for file in client.list_artifacts(run_id, "checkpoint") if file.path.endswith(".mcb")]
        if not files:
            raise UserError(f"the tracked run {run_id} keeps no checkpoint: it did not finish, resume it first")
        return Path(client.download_artifacts(run_id, max(files)))
    except UserError:
        raise
    except Exception as error:  # MLflow and its artefact stores have no error in common
        raise UserError(f"the tracked run {run_id} gives no checkpoint: {first_sentence(error)}") from error


def model_checkpoint(name: str, tracking_uri: str | None) -> Path:
    """The checkpoint inside the registered model `models:/...`, on this machine.

    Raises `UserError` for a name that the registry does not know, and for a model that holds a pickle or no checkpoint.
    """
    uri = _resolve_uri(tracking_uri)
    client = _open(name, tracking_uri)
    try:
        repository = _repository(client, name, uri)
        files = _files(repository)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} cannot be read: {first_sentence(error)}") from error
    chosen = model_file(name, files)
    try:
        return Path(repository.download_artifacts(chosen, mkdtemp(prefix="mcb-model-")))
    except Exception as error:
        raise UserError(f"{chosen} of {name} cannot be downloaded: {first_sentence(error)}") from error


def model_file(name: str, files: list[str]) -> str:
    """The checkpoint among the files of an MLflow model; raises `UserError` for a pickle, or if there is not one."""
    for file in files:
        if file.lower().endswith(_PICKLES):
            raise UserError(
                f"{name} holds {file}, a pickle, which can run any code when it is loaded: it is refused; register the "
                "run's checkpoint instead, which holds numbers alone"
            )
    checkpoints = [file for file in files if file.endswith(".mcb")]
    if len(checkpoints) != 1:
        raise UserError(f"{name} holds {len(checkpoints)} checkpoints (*.mcb): a model of this program holds one")
    return checkpoints[0]


def _resolve_uri(tracking_uri: str | None) -> str:
    return absolute_uri(tracking_uri or default_tracking_uri())


def _open(what: str, tracking_uri: str | None) -> "MlflowClient":
    """The store; one that is only a file's name is not made by looking into it."""
    uri = _resolve_uri(tracking_uri)
    if file := missing_file(uri):
        raise UserError(f"{what} cannot be looked up: there is no tracking store {file}; {_REMEDY}")
    try:
        return open_store(uri, remedy=_REMEDY)
    except TrackingError as error:
        raise TrackingError(f"{what} cannot be looked up: {error}") from error


def _repository(client: "MlflowClient", name: str, uri: str) -> "ArtifactRepository":
    """Where a model's files lie."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(_location(client, name, uri), tracking_uri=store_uri(uri))


def _location(client: "MlflowClient", name: str, uri: str) -> str:
    """The URI of a model's folder; raises `UserError` with the nearest name or alias where there is none."""
    model, at, alias = name.removeprefix("models:/").partition("@")
    if not at:
        model, _, alias = model.partition("/")
    if not model or (at and not alias) or "/" in alias:
        raise UserError(f"{name} names no registered model: the forms are {_FORMS}")
    if not at and not alias and model.startswith("m-"):  # MLflow's own id of a logged model
        return client.get_logged_model(model).artifact_location
    known = _model_names(client)
    if model not in known:
        there = nearest(model, known) if known else "; it holds no model"
        raise UserError(f"{without_password(uri)} has no registered model {model!r}{there}")
    if not at and not alias:
        raise UserError(f"{name} says no version: the forms are {_FORMS}")
    version = _version(client, model, alias, is_alias=bool(at))
    location = client.get_model_version_download_uri(model, version)
    if location.startswith("models:/m-"):
        return client.get_logged_model(location.removeprefix("models:/")).artifact_location
    return location


def _model_names(client: "MlflowClient") -> list[str]:
    """All registered models, page by page."""
    names: list[str] = []
    token = None
    while True:
        page = client.search_registered_models(max_results=1000, page_token=token)
        names += [found.name for found in page]
        token = page.token
        if not token:
            return names


def _version(client: "MlflowClient", model: str, wanted: str, is_alias: bool) -> str:
    """The number of the version that an alias, a number or `latest` stands for; raises `UserError`."""
    if is_alias:
        aliases = client.get_registered_model(model).aliases
        if wanted not in aliases:
            there = nearest(wanted, aliases) if aliases else "; it has none: name a version, models:/NAME/VERSION"
            raise UserError(f"the registered model {model!r} has no alias {wanted!r}{there}")
        return str(aliases[wanted])
    versions = sorted(int(found.version) for found in client.search_model_versions(f"name='{model}'"))
    if wanted == "latest" and versions:
        return str(versions[-1])
    if wanted not in map(str, versions):
        there = f"there are {', '.join(map(str, versions))}" if versions else "it has none"
        raise UserError(f"the registered model {model!r} has no version {wanted!r}; {there}")
    return wanted


def _files(repository: "ArtifactRepository", folder: str | None = None) -> list[str]:
    """All files below a folder of the store."""
    found: list[str] = []
    for entry in repository.list_artifacts(folder):
        found += _files(repository, entry.path) if entry.is_dir else [entry.path]
    return found
