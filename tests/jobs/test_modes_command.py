import json

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from tiny_runs import CLUSTERED, TINY

from cluster.checkpoint import load
from cluster.survey import initial_state
from jobs.cli import main
from jobs.evaluation.evaluate import trained_learner
from jobs.settings.file import read_yaml

FIGURES = {"mode_tasks.png", "mode_confusion.png", "mode_members.png"}
TRUTH = {"ari", "nmi", "purity", "accuracy", "accuracy_ceiling"}


def read_modes(path):
    """Of each meta-step the metrics of modes that it is the first to see."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name.startswith("modes/")} for row in rows]


def test_refreshes_are_on_record_in_the_file_and_in_the_store(clustered_run):
    folder, figures = clustered_run
    first, second, third, fourth = read_modes(folder / "run" / "metrics.jsonl")
    expected = {f"modes/{name}" for name in TRUTH | {"num_modes", "silhouette"}}
    assert (first, third) == ({}, {})
    assert set(second) == expected and set(fourth) == expected | {"modes/stability"}
    assert second["modes/num_modes"] == 3
    assert fourth["modes/stability"] == pytest.approx(1)  # statistics do not change as training goes
    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    history = client.get_metric_history(figures["run_id"], "modes/ari")
    assert [(point.step, point.value) for point in history] == [(2, second["modes/ari"]), (4, fourth["modes/ari"])]
    drawn = {file.path for file in client.list_artifacts(figures["run_id"], "figures")}
    assert {f"figures/{name}" for name in FIGURES} <= drawn


def test_evaluation_is_at_the_modes_that_the_run_ended_with(clustered_run, workplace):
    folder, figures = clustered_run
    settings, checkpoint = read_yaml(folder / "run" / "settings.yaml"), load(figures["checkpoint"])
    state = initial_state(trained_learner(settings, checkpoint))
    assert checkpoint.mode_state is not None
    np.testing.assert_array_equal(state, checkpoint.mode_state)
    assert main(["evaluate", str(folder / "run"), "--json=again.json"]) == 0
    again = json.loads((workplace / "again.json").read_text())
    assert {name: again[name] for name in figures["evaluation"]} == figures["evaluation"]


@pytest.mark.parametrize("modes", [CLUSTERED, ("--modes.concentration=1", *CLUSTERED[2:])])
def test_a_run_stopped_between_survey_and_adoption_resumes_to_the_same_modes(train, workplace, modes):
    words = [*modes[:-2], "--modes.refresh-every=4", "--modes.refresh-lag=3", "--train.num-steps=6"]
    words += ["--optimizer.schedule=constant", "--train.checkpoint-every=1", "--train.checkpoint-keep=6"]
    whole = train("--out=whole", *words)
    kept = workplace / "whole" / "checkpoints"
    half = workplace / "half"
    (half / "checkpoints").mkdir(parents=True)
    (half / "settings.yaml").write_bytes((workplace / "whole" / "settings.yaml").read_bytes())
    (half / "checkpoints" / "checkpoint-00000002.mcb").write_bytes((kept / "checkpoint-00000002.mcb").read_bytes())
    assert load(half / "checkpoints" / "checkpoint-00000002.mcb").pending is not None
    assert main(["train", "--resume", "--out=half", "--json=half.json"]) == 0
    resumed = json.loads((workplace / "half.json").read_text())
    assert resumed["params_sha256"] == whole["params_sha256"]
    assert resumed["evaluation"] == whole["evaluation"]
    state, other = (load(figures["checkpoint"]).mode_state for figures in (resumed, whole))
    assert state is not None and other is not None
    np.testing.assert_array_equal(state, other)


@pytest.mark.parametrize("which", ["clustered_run", "plain_run"])
def test_the_modes_of_a_run_are_told_drawn_and_written(request, workplace, capsys, which):
    run = request.getfixturevalue(which).folder / "run"
    capsys.readouterr()
    assert main(["modes", str(run), "--num-tasks=30", "--json=modes.json", "--out=drawn"]) == 0
    shown = capsys.readouterr().out
    tree = json.loads((workplace / "modes.json").read_text())
    assert f"two-modes, 4 meta-steps: {tree['num_modes']} modes of 30 test tasks" in shown
    assert f"mode accuracy {100 * tree['accuracy']:.1f} % (Bayes-optimal 99.2 %)" in shown
    assert tree["num_modes"] == len(tree["modes"]) <= tree["num_slots"] == 3
    assert sum(mode["num_tasks"] for mode in tree["modes"]) == 30
    for mode in tree["modes"]:
        prior = mode["prior_predictive"]
        assert len(prior["x"]) == len(prior["mean"]) == len(prior["low_90"]) == 21
        assert all(low < high for low, high in zip(prior["low_90"], prior["high_90"], strict=True))
        assert mode["typical_task"]["family"] in mode["families"]
        assert len(mode["typical_task"]["support"]["y"]) == 5
    assert {path.name for path in (workplace / "drawn").iterdir()} == FIGURES


def test_modes_of_measured_curves_are_told(curves_run, workplace, curves_file, capsys):
    assert (
        main(
            ["modes", str(curves_run.folder / "run"), "--num-tasks=20", "--data", str(curves_file), "--json=modes.json"]
        )
        == 0
    )
    assert "low x" in capsys.readouterr().out
    tree = json.loads((workplace / "modes.json").read_text())
    assert {name for mode in tree["modes"] for name in mode["families"]} <= {"lines", "parabolas"}


def test_modes_that_are_continuous_are_refused(workplace, capsys):
    words = [word for word in TINY if not word.startswith("--modes")]
    kind = ["--modes.kind=embedding", "--encoder.kind=deep-set", "--out=run"]
    assert main(["train", "two-modes", *words, *kind]) == 0
    assert main(["modes", "run"]) == 1
    assert "modes of kind embedding are continuous" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["five-modes-clustered", "three-modes-clustered"])
def test_clustered_recipes_run_through(name, train):
    figures = train(
        "--out=run", "--modes.num-reservoir=40", "--modes.refresh-every=2", "--modes.refresh-lag=1", recipe=name
    )
    assert np.isfinite(figures["evaluation"]["nll"])
