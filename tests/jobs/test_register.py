"""`mcb register`, and the models that runs log."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import mlflow
import numpy as np
import pytest
import yaml
from registered_runs import Run, client, rows, store, train

from cluster.errors import UserError
from jobs.cli import main
from jobs.evaluation.report import new_console
from jobs.evaluation.task_scores import compare, read_tasks
from jobs.models import register
from jobs.models.contenders import Contender
from jobs.models.logged import NEEDED
from jobs.models.register_arguments import RegisterOptions
from jobs.models.source import load_predictor
from jobs.runs.tracked_run import TrackedRun

ALONE = Path(__file__).parent / "alone_with_model.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Iterator[Path]:
    """The folder of this process, with a store; each test uses a registered model of its own name."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "runs").mkdir()
    (folder / "runs" / "mlflow.db").write_bytes(migrated_store.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(sys, "path", list(sys.path))  # loading a model puts its sources there
        yield folder


@pytest.fixture
def named_store(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user of MLflow alone has to say: where the store is."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store(place))


@pytest.fixture(scope="module")
def runs(place: Path) -> tuple[Run, Run]:
    """The better one and the worse one; the first of them trained logged its model, the second did not."""
    first = train(place, "one", "--seed=1", "--tracking.log-model=true")
    second = train(place, "two", "--seed=2", "--optimizer.learning-rate=1e-5")
    return (first, second) if first.nll < second.nll else (second, first)


def champion(place: Path, name: str) -> str | None:
    """The run whose model is the champion."""
    return client(place).get_model_version_by_alias(name, "champion").run_id


def test_a_run_logs_a_model_of_its_checkpoint_and_of_nothing_pickled(place, runs):
    run = client(place).get_run(train_of(place, "one"))
    assert run.outputs is not None
    (output,) = run.outputs.model_outputs
    model = client(place).get_logged_model(output.model_id)
    assert (model.name, str(model.status), output.step) == ("two-modes", "READY", 4)
    assert {one.key: one.value for one in model.metrics or ()}["test/nll"] == run.data.metrics["test/nll"]
    assert len(client(place).get_metric_history(run.info.run_id, "test/nll")) == 1
    folder = Path(model.artifact_location.removeprefix("file://"))
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".joblib"))]
    saved = next((place / "one" / "checkpoints").glob("*00000004.mcb"))
    assert (folder / "artifacts" / saved.name).read_bytes() == saved.read_bytes()
    assert {"artifacts/test_tasks.parquet", "artifacts/model_card.md", "artifacts/figures/calibration.png"} <= files
    assert "python_model" not in yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]
    pinned = (folder / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in pinned] == list(NEEDED)
    assert all(line.partition("==")[2] for line in pinned)
    assert "NaN" not in (folder / "serving_input_example.json").read_text()
    kept = {file.path for file in client(place).list_artifacts(run.info.run_id)}
    assert {"model_card.md", "test_tasks.parquet", "figures"} <= kept


def test_a_loaded_model_answers_as_the_predictor_does(place, runs, named_store):
    model = mlflow.pyfunc.load_model(f"runs:/{train_of(place, 'one')}/two-modes")
    sent = rows([5, 2, 9])
    answers = model.predict(sent, params={"level": 0.5})
    assert list(answers.index) == list(sent[sent["set"] == "query"].index)
    predictor = load_predictor(str(place / "one"))
    for task, points in sent.groupby("task"):
        support, query = points[points["set"] == "support"], points[points["set"] == "query"]
        posterior = predictor.adapt(support["x"].tolist(), support["y"].tolist())
        prediction = posterior.predict(query["x"].tolist())
        mine = answers.loc[query.index]
        np.testing.assert_allclose(mine["mean"], prediction.mean, atol=1e-5)
        np.testing.assert_allclose(mine[["lower", "upper"]].T, prediction.interval(0.5), atol=1e-5)
        assert set(mine["task"]) == {task}
        assert set(mine["mode"]) == {predictor.mode_names[posterior.responsibilities.argmax()]}
        np.testing.assert_allclose(mine["mode_probability"], posterior.responsibilities.max(), atol=1e-5)
        assert set(mine["unusual"]) == {posterior.is_unusual}


def test_a_model_needs_nothing_but_its_own_sources_and_the_packages_that_it_names(place, runs, named_store, tmp_path):
    sent = tmp_path / "sent.json"
    rows([5]).to_json(sent, orient="records")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, str(ALONE), f"runs:/{train_of(place, 'one')}/two-modes", str(sent)]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert all("code" in Path(file).parts for file in found["files"])
    assert set(found["imported"]) <= {name.lower() for name in NEEDED}
    assert "ray" not in found["loaded"]
    assert np.isfinite([row["mean"] for row in found["answers"]]).all()


def test_the_first_model_is_the_champion_and_only_a_better_one_takes_its_place(place, runs, capsys):
    better, worse = runs
    assert main(["register", str(worse.folder), "--name=ladder", "--json=first.json"]) == 0
    assert champion(place, "ladder") == worse.run_id
    assert "NLL" not in capsys.readouterr().out
    assert main(["register", better.run_id, "--name=ladder", "--json=second.json"]) == 0
    assert champion(place, "ladder") == better.run_id
    said = f"NLL {better.nll:.4f} against {worse.nll:.4f} nats on the same 60 test tasks, − "
    shown = capsys.readouterr().out
    assert said in shown and re.search(r"MLFLOW_TRACKING_URI=\S+ mlflow models serve", shown)
    second = json.loads((place / "second.json").read_text())
    expected = compare(*(read_tasks(run.folder / "test_tasks.parquet") for run in runs))
    assert expected is not None
    assert (second["version"], second["difference"]) == (2, pytest.approx(expected.difference))

    before = client(place).search_model_versions("name = 'ladder'")
    assert main(["register", str(worse.folder), "--name=ladder"]) == 1
    refusal = capsys.readouterr().err
    assert f"worse than ladder version 2, the champion: NLL {worse.nll:.4f} against {better.nll:.4f} nats" in refusal
    assert f"+ {worse.nll - better.nll:.4f} ± " in refusal
    assert refusal.count("\n") == 1
    assert client(place).search_model_versions("name = 'ladder'") == before
    assert champion(place, "ladder") == better.run_id

    assert main(["register", str(worse.folder), "--name=ladder", "--force"]) == 0
    assert client(place).get_model_version_by_alias("ladder", "champion").version == 1  # the version that it has
    assert main(["register", str(worse.folder), "--name=ladder", "--json=again.json"]) == 0
    assert json.loads((place / "again.json").read_text())["version"] == 1
    assert not (place / "mlflow.db").exists()  # MLflow's own default, which is not the run's store


def test_runs_evaluated_on_other_tasks_are_evaluated_again_on_those_of_the_champion(place, runs, capsys):
    _, worse = runs
    assert main(["register", str(worse.folder), "--name=other"]) == 0
    noisy = train(place, "noisy", "--tasks.noise-scale=0.1", "--evaluation.num-bayes-tasks=0", "--seed=1")
    code = main(["register", str(noisy.folder), "--name=other", "--json=other.json", "--force"])
    assert code == 0
    assert "evaluating both on the champion's test tasks" in capsys.readouterr().out
    found = json.loads((place / "other.json").read_text())
    assert found["champion"] == pytest.approx(worse.nll, abs=1e-5)
    assert found["num_tasks"] == 60
    assert found["candidate"] != pytest.approx(noisy.nll, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("absent --name=n", 1, "there is no run absent in sqlite:"),
        ("unfinished --name=n", 1, "run unfinished has no finished evaluation"),
        ("one --name=n --alias=the/best", 2, "--alias 'the/best' must be of letters, digits, _ and -"),
        ("one --name=n --alias=v3", 2, "not latest or a version such as v3"),
        ("one --name=a/b", 2, "--name 'a/b' must be a name without / and :"),
        ("one", 2, "see mcb register --help"),
        (
            "one --name=n --tracking-uri=http://127.0.0.1:9",
            1,
            "does not answer ([Errno 111] Connection refused): start it, or give another",
        ),
        ("one --name=n --tracking-uri=sqlite:///absent.db", 1, "there is no tracking store at"),
        ("two --name=n --json=.", 2, ". cannot be written"),
    ],
)
def test_what_cannot_be_registered_is_one_line_and_registers_nothing(words, code, message, place, runs, capsys):
    unfinished(place)
    assert main(["register", *words.split()]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not client(place).search_model_versions("name = 'n'")
    assert not (place / "absent.db").exists()


@pytest.mark.slow
def test_mlflow_serves_the_champion(place, runs, named_store):
    better, _ = runs
    assert main(["register", str(better.folder), "--name=served"]) == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/served@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # MLflow starts uvicorn by its name
    server = subprocess.Popen(
        command,
        env={**os.environ, "PATH": path},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server)
        sent = rows([5, 3])
        body = {"dataframe_records": json.loads(str(sent.to_json(orient="records"))), "params": {"level": 0.5}}
        answers = ask(f"http://127.0.0.1:{port}/invocations", body)["predictions"]
        predictor = load_predictor(str(better.folder))
        points = sent[(sent["task"] == "task 0") & (sent["set"] == "support")]
        asked = sent[(sent["task"] == "task 0") & (sent["set"] == "query")]
        prediction = predictor.adapt(points["x"].tolist(), points["y"].tolist()).predict(asked["x"].tolist())
        mine = [row for row in answers if row["task"] == "task 0"]
        np.testing.assert_allclose([row["mean"] for row in mine], prediction.mean, atol=1e-5)
        np.testing.assert_allclose([row["lower"] for row in mine], prediction.interval(0.5)[0], atol=1e-5)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(f"http://127.0.0.1:{port}/invocations", {"dataframe_records": [{"set": "query", "x": 1.0, "y": None}]})
        assert refused.value.code == 400
        assert "task 0 has no row with set=support" in json.loads(refused.value.read())["message"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def train_of(place: Path, name: str) -> str:
    return json.loads((place / name / "run.json").read_text())["run_id"]


def unfinished(place: Path) -> None:
    """A run whose training was interrupted: a folder with a checkpoint, a tracked run without a result."""
    folder = place / "unfinished"
    if folder.exists():
        return
    experiment = client(place).get_experiment_by_name("mcb-maml")
    assert experiment is not None
    run = client(place).create_run(experiment.experiment_id)
    (folder / "checkpoints").mkdir(parents=True)
    saved = next((place / "one" / "checkpoints").glob("*.mcb"))
    (folder / "checkpoints" / saved.name).write_bytes(saved.read_bytes())
    identity = {"run_id": run.info.run_id, "tracking_uri": store(place)}
    (folder / "run.json").write_text(json.dumps(identity))


def wait_for(address: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.3)


def ask(address: str, body: dict) -> dict:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def test_a_comparison_that_cannot_be_computed_is_refused_or_forced(monkeypatch, capsys):
    def compare_contenders(*what: object) -> None:
        raise ValueError("the test tasks have no targets")

    monkeypatch.setattr(register, "compare_contenders", compare_contenders)
    monkeypatch.setattr(register, "fetch_version", lambda *what: None)
    run, champion = TrackedRun("r", MagicMock(), "sqlite:///x.db", {}), MagicMock(version=3)
    for force in (False, True):
        options = RegisterOptions("r", name="a", force=force)
        given = (new_console(), options, run, Contender(Path("x"), None), champion, Path())
        if force:
            assert register._compared(*given) is None
            assert "not compared with a version 3, the champion: the test tasks have" in capsys.readouterr().out
        else:
            with pytest.raises(UserError, match=r"cannot be compared .*have no targets; --force replaces it"):
                register._compared(*given)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://mcb:$PASSWORD@tracking:5000", '"http://mcb:$PASSWORD@tracking:5000"'),
        ("sqlite:////srv/[bold]$x.db", "'sqlite:////srv/[bold]$x.db'"),
    ],
)
def test_the_command_that_serves_a_model_names_its_store_as_a_shell_takes_it(uri, said, capsys):
    run = TrackedRun("r", MagicMock(), uri, {})
    register._say(new_console(), RegisterOptions("r", name="a"), run, MagicMock(version=3), None)
    shown = capsys.readouterr().out
    assert said in shown and re.search(r"MLFLOW_TRACKING_URI=\S+ mlflow models serve", shown)
