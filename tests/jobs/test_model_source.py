"""What names a model: folders, checkpoints, runs and registered models; and what is refused, in one line each."""

import io
import json
import os
import pickle
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from untrained_runs import untrained

from cluster import checkpoint as checkpoints
from cluster.errors import CheckpointError, UserError
from cluster.tracking_store import open_store
from jobs.building.task_form import TaskForm
from jobs.models.source import _drawing, load_predictor
from jobs.runs.folder import RunFolder, default_tracking_uri
from jobs.runs.tracked_files import _model_names
from jobs.settings.recipes import recipe
from jobs.settings.tree import CurveTasks
from mcb import Predictor
from mcb.tasks.long_form import read_long_form
from mcb.units import Units

X, Y = [0.1, -2.0, 3.0], [1.0, 0.5, -1.0]


def evidence(name: str | Path) -> float:
    return Predictor.load(name).adapt(X, Y).log_evidence


def register(folder: Path, name: str = "five") -> None:
    """What `mcb register` comes to: a model folder, a version, and an alias of it."""
    client = open_store(default_tracking_uri())
    client.create_registered_model(name)
    client.create_model_version(name, source=folder.as_uri())
    client.set_registered_model_alias(name, "champion", "1")


def model_folder(path: Path, checkpoint: str | Path) -> Path:
    (path / "artifacts").mkdir(parents=True)
    (path / "MLmodel").write_text("flavors: {}\n")
    shutil.copy(checkpoint, path / "artifacts" / "checkpoint.mcb")
    return path


def test_one_model_by_all_its_names(workplace):
    folder = workplace / "runs" / "two-modes" / "first"
    checkpoint = untrained(folder)
    run_id = RunFolder(folder).read_identity()["run_id"]
    expected = evidence(folder)
    predictor = load_predictor(str(checkpoint))
    assert predictor.run_id == run_id and predictor.x_size == predictor.y_size == 1
    assert predictor.settings["recipe"] == "two-modes" and predictor.num_modes == 3
    assert predictor.family_names == ("sinusoid", "linear")
    assert predictor.adapt(X, Y).evidence_percentile == load_predictor(run_id).adapt(X, Y).evidence_percentile
    register(model_folder(workplace / "model", checkpoint))
    for name in (checkpoint, f"runs:/{run_id}", run_id, "model", "models:/five@champion", "models:/five/1"):
        assert evidence(name) == expected
    shutil.rmtree(folder)  # the tracked run keeps its checkpoint
    assert evidence(f"runs:/{run_id}") == expected
    for name, sentence in {
        "models:/fiv@champion": "has no registered model 'fiv'; did you mean five?",
        "models:/five@champ": "the registered model 'five' has no alias 'champ'; did you mean champion?",
        "models:/five/7": "the registered model 'five' has no version '7'; there are 1",
        "models:/five": "models:/five says no version: the forms are models:/NAME@ALIAS or models:/NAME/VERSION",
        "models:/": "names no registered model: the forms are",
        f"runs:/{'0' * 32}": f"the tracked run {'0' * 32} gives no checkpoint",
        "no/such": "there is no model no/such: name a run's folder, a checkpoint file (.mcb), runs:/RUN_ID",
        "runs": "runs holds no checkpoint",
    }.items():
        with pytest.raises(UserError) as refusal:
            load_predictor(name)
        assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_store_that_is_not_there_is_named_and_not_made(workplace, monkeypatch):
    shutil.rmtree(workplace / "runs")
    for name in ("models:/five@champion", "runs:/abc"):
        with pytest.raises(UserError, match=r"cannot be looked up: there is no tracking store .*mlflow.db; give the"):
            load_predictor(name)
    assert not (workplace / "runs").exists()
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free}")
    with pytest.raises(UserError, match=r"^models:/five@champion cannot be looked up: the tracking server .* does not"):
        Predictor.load("models:/five@champion")


def test_a_model_that_holds_a_pickle_is_refused_unread(workplace):
    checkpoint = untrained(workplace / "run")
    folder = model_folder(workplace / "model", checkpoint)
    (folder / "python_model.pkl").write_bytes(pickle.dumps(Bomb(workplace / "exploded")))
    register(folder)
    for name in ("model", "models:/five@champion"):
        with pytest.raises(UserError, match=r"holds python_model.pkl, a pickle, which can run any code .* refused"):
            load_predictor(name)
    assert not (workplace / "exploded").exists()
    (folder / "python_model.pkl").unlink()
    shutil.copy(checkpoint, folder / "second.mcb")
    with pytest.raises(UserError, match="holds 2 checkpoints"):
        load_predictor("model")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_checkpoint_whose_payload_is_a_malicious_pickle_is_refused_unread(workplace):
    path = untrained(workplace / "run")
    genuine, proof = path.read_bytes(), workplace / "exploded"
    buffer = io.BytesIO()
    torch.save({"parameters": Bomb(proof), "optimizer_state": {}}, buffer)
    for payload in (buffer.getvalue(), pickle.dumps(Bomb(proof), protocol=2)):
        path.write_bytes(with_payload(genuine, payload))
        with pytest.raises(CheckpointError, match=r"holds more than numbers, which could run any code .* refused"):
            load_predictor(str(path))
    assert not proof.exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)  # the payload does what it was made for
    assert proof.exists()


def test_a_checkpoint_of_another_format_is_refused(workplace):
    path = untrained(workplace / "run")
    data = path.read_bytes()
    path.write_bytes(with_payload(data, None, format_version=9))
    with pytest.raises(CheckpointError, match="has checkpoint format 9, but this version of the program reads"):
        load_predictor(str(path))
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="is not a checkpoint of this program"):
        load_predictor(str(path))


def with_payload(data: bytes, payload: bytes | None, **changes: object) -> bytes:
    """A checkpoint's bytes with another payload or header, whose checksums are right."""
    start = len(checkpoints._MAGIC) + 8
    end = start + int.from_bytes(data[len(checkpoints._MAGIC) : start], "little")
    header = json.loads(data[start:end]) | changes
    payload = data[end : -checkpoints._DIGEST_SIZE] if payload is None else payload
    header["sha256"] = checkpoints.hashlib.sha256(payload).hexdigest()
    head = json.dumps(header).encode()
    body = checkpoints._MAGIC + len(head).to_bytes(8, "little") + head + payload
    return body + checkpoints.hashlib.sha256(body).digest()


def test_measured_curves_are_predicted_in_their_own_units_without_their_file(curves_file, workplace):
    moved, folder = workplace / "curves.parquet", workplace / "run"
    shutil.copy(curves_file, moved)
    untrained(folder, "curves", path=str(moved))
    data = read_long_form(moved)
    rows = slice(int(data.start[0]), int(data.start[0] + 6))
    x, y, new = data.x[rows], data.y[rows], data.x[rows] + 0.1
    family = data.families[data.family[0]]
    beside = Predictor.load(folder).adapt(x, y, family=family)
    assert beside.evidence_percentile is not None
    moved.unlink()
    predictor = Predictor.load(folder)
    assert predictor.x_size == 2 and predictor.family_names == ("lines", "parabolas")
    post = predictor.adapt(x, y, family=family)
    assert post.evidence_percentile is None and post.is_unusual is None
    assert post.log_evidence == beside.log_evidence
    np.testing.assert_array_equal(post.predict(new).mean, beside.predict(new).mean)
    pd.read_parquet(curves_file).replace({"family": {"lines": "other lines"}}).to_parquet(moved)
    changed = Predictor.load(folder)
    assert changed.adapt(x, y, family=family).is_unusual is None
    assert changed.mode_names == predictor.mode_names
    shutil.copy(curves_file, moved)
    gone_later = Predictor.load(folder)
    moved.unlink()
    assert gone_later.adapt(x, y, family=family).is_unusual is None


def test_a_file_of_curves_that_cannot_be_asked_about_is_not_at_hand(workplace):
    settings = recipe("curves").tasks.model_copy(update={"path": f"{workplace}/{'x' * 300}.parquet"})
    assert isinstance(settings, CurveTasks)
    assert _drawing(settings, TaskForm(("lines",), 1, 1, Units.identity(1, 1))) is None


def test_a_registered_model_is_found_on_any_page_of_the_registry():
    class Page(list):
        token: str | None = None

    class Registry:
        def search_registered_models(self, max_results: int, page_token: str | None) -> Page:
            page = Page([SimpleNamespace(name=page_token or "first")])
            page.token = {None: "second", "second": "third"}.get(page_token)
            return page

    assert _model_names(cast(MlflowClient, Registry())) == ["first", "second", "third"]
