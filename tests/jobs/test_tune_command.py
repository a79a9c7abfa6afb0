"""`mcb tune` over Ray: each trial a distributed run in its own placement group, watched in MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow.tracking import MlflowClient
from tiny_runs import TINY

from cluster.metric_names import entry
from jobs.cli import main
from jobs.settings.file import read_yaml

SMALL = [word for word in TINY if "num-workers" not in word]
ROOT = Path(__file__).parents[2]


def nested_runs(workplace: Path, parent_run_id: str) -> list:
    """The runs below a parent; there must be no other parent than that one."""
    client = MlflowClient(f"sqlite:///{workplace / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mcb-maml")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert [run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags] == [parent_run_id]
    return [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent_run_id]


def workers() -> list[str]:
    """What Ray's worker processes of this test run are busy with."""
    mine = psutil.Process().children(recursive=True)
    return [line[0] for process in mine if (line := process.cmdline()) and line[0].startswith("ray::")]


@pytest.mark.ray
def test_a_search_ends_with_the_best_settings_trained_again_and_no_actor_left(ray_cluster: None, workplace: Path):
    space = {
        "optimizer.name": "sgd",
        "optimizer.betas": [[]],
        "optimizer.clip_norm": None,
        "optimizer.max_refused_steps": 0,
        "optimizer.learning_rate": [2e-3, 999.0],
        "modes.num_modes": 2,
    }
    (workplace / "space.yaml").write_text(yaml.safe_dump({"settings": space}))
    words = ["--space=space.yaml", "--searcher=grid", "--num-validation-tasks=30", "--num-reports=2", "--num-seeds=1"]
    more = ["--train.num-steps=8", "--cluster.threads-per-worker=2", "--name=s", "--json=s.json"]
    assert main(["tune", "two-modes", *SMALL, *words, *more]) == 0
    found = json.loads((workplace / "s.json").read_text())
    wild = [t for t in found["trials"] if t["params"]["optimizer.learning_rate"] == 999.0]
    assert [t["state"] for t in wild] == ["failed"] and "not finite" in wild[0]["error"]
    (tame,) = (t for t in found["trials"] if t not in wild)
    assert (tame["state"], found["best"]) == ("finished", tame)
    assert [row["seed"] for row in found["retrained"]] == [1]

    runs = nested_runs(workplace, found["parent_run_id"])
    states = {run.info.run_id: run.data.tags.get("trial_state") for run in runs}
    assert {t["run_id"]: t["state"] for t in found["trials"]} | {found["retrained"][0]["run_id"]: None} == states
    client = MlflowClient(f"sqlite:///{workplace / 'runs' / 'mlflow.db'}")
    curve = client.get_metric_history(found["best"]["run_id"], "train/nll")
    assert [point.step for point in curve] == list(range(1, 9))
    parent = client.get_run(found["parent_run_id"])
    assert all(entry(name) for run in (parent, *runs) for name in run.data.metrics)
    assert {"best/nll", "best/test_nll"} <= set(parent.data.metrics)
    kept = {file.path for file in client.list_artifacts(found["parent_run_id"])}
    figures = {"history.png", "parallel_coordinates.png"}
    assert figures | {"best.yaml", "leaderboard.csv", "importances.json", "result.json"} <= kept

    deadline = time.monotonic() + 10
    while any("Worker" in line or "Server" in line or "Func" in line for line in workers()):
        assert time.monotonic() < deadline, workers()
        time.sleep(0.1)
    settings = read_yaml(workplace / "runs" / "tune" / "s" / "best.yaml")
    assert (settings.optimizer.learning_rate, settings.cluster.num_workers) == (2e-3, 2)  # the places of two trials
    assert main(["tune", "--resume", "--name=s", "--json=same.json"]) == 0
    assert json.loads((workplace / "same.json").read_text())["trials"] == found["trials"]


@pytest.mark.slow
@pytest.mark.ray
def test_a_search_whose_driver_was_killed_goes_on_with_the_trials_it_had(workplace: Path):
    words = ["--space=codebook", "--num-trials=4", "--num-validation-tasks=30", "--num-seeds=0", "--train.num-steps=60"]
    command = [sys.executable, "-m", "jobs.cli", "tune", "two-modes", *SMALL, *words, "--name=k"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    folder = workplace / "runs" / "tune" / "k"

    def records() -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted(folder.glob("trials/*/trial.json"))]

    deadline = time.monotonic() + 300
    while not (any(r["state"] != "running" for r in records()) and any(r["state"] == "running" for r in records())):
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = [record for record in records() if record["state"] != "running"]
    parent_run_id = json.loads((folder / "run.json").read_text())["run_id"]

    again = [*command[:3], "tune", "--resume", "--name=k", "--json=k.json"]
    assert subprocess.run(again, env=environment, timeout=400, check=False).returncode == 0
    found = json.loads((workplace / "k.json").read_text())
    assert found["parent_run_id"] == parent_run_id
    assert len(found["trials"]) == 4 and {t["state"] for t in found["trials"]} <= {"finished", "stopped"}
    assert [record for record in records() if record["number"] in {r["number"] for r in before}] == before
    assert {run.info.run_id for run in nested_runs(workplace, parent_run_id)} == {t["run_id"] for t in found["trials"]}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("scheduler", ["hyperband", "pbt"])
def test_schedulers_that_pause_trials_lead_each_to_its_end(ray_cluster: None, workplace: Path, scheduler: str):
    rates = {"low": 1e-5, "high": 0.1, "log": True}
    (workplace / "space.yaml").write_text(yaml.safe_dump({"settings": {"optimizer.learning_rate": rates}}))
    words = ["--space=space.yaml", "--searcher=random", f"--scheduler={scheduler}", "--num-trials=4", "--num-reports=4"]
    more = ["--num-validation-tasks=30", "--num-seeds=0", "--train.num-steps=120", "--name=s", "--json=s.json"]
    assert main(["tune", "two-modes", *TINY, *words, *more]) == 0
    found = json.loads((workplace / "s.json").read_text())
    assert len(found["trials"]) == 4
    ends = {"finished"} if scheduler == "pbt" else {"finished", "stopped"}
    assert {"finished"} <= {t["state"] for t in found["trials"]} <= ends
    begun_with = {run.info.run_id: run.data.params for run in nested_runs(workplace, found["parent_run_id"])}
    changed = 0
    for trial in found["trials"]:
        rate = trial["params"]["optimizer.learning_rate"]
        settings = yaml.safe_load((workplace / f"runs/tune/s/trials/{trial['trial_id']}/settings.yaml").read_text())
        assert settings["optimizer"]["learning_rate"] == pytest.approx(rate)
        assert 1e-5 <= rate <= 0.1
        changed += float(begun_with[trial["run_id"]]["optimizer.learning_rate"]) != pytest.approx(rate)
        assert trial["num_steps"] == 120 or trial["state"] == "stopped"
    assert (changed > 0) == (scheduler == "pbt")
