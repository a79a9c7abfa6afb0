import json
import math
import shutil

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from cluster.checkpoint import load
from cluster.gradient import initial_parameters
from cluster.metric_names import entry
from cluster.training import params_sha256
from jobs.cli import main
from jobs.evaluation.evaluate import trained_learner
from jobs.settings.file import flatten, read_yaml

EVALUATION = ("nll", "mse", "mse_median", "coverage_50", "coverage_90", "crps", "mode_accuracy", "ari", "nmi")


def read_run(workplace, run_id):
    return MlflowClient(f"sqlite:///{workplace / 'runs' / 'mlflow.db'}").get_run(run_id)


def test_the_figures_have_the_keys_that_scripts_read(plain_run):
    folder, figures = plain_run
    assert figures["num_steps"] == 4
    assert figures["num_tasks"] == 40
    assert figures["tasks_per_s"] == pytest.approx(40 / figures["train_seconds"])
    checkpoint = load(figures["checkpoint"])
    assert params_sha256(checkpoint.parameters) == figures["params_sha256"]
    learner = trained_learner(read_yaml(folder / "run" / "settings.yaml"), checkpoint)
    assert params_sha256(initial_parameters(learner)) == figures["params_sha256"]
    evaluation = figures["evaluation"]
    for name in (*EVALUATION, "excess_nll", "mse_ratio"):
        assert math.isfinite(evaluation[name]), name
        assert evaluation[f"{name}_ci"] >= 0, name
    assert evaluation["num_tasks"] == 60
    assert evaluation["bayes"]["num_tasks"] == 60
    for name in ("nll", "mse", "mode_accuracy"):
        assert {name, f"{name}_ci"} <= set(evaluation["bayes"])
    assert evaluation["excess_nll"] == pytest.approx(evaluation["nll"] - evaluation["bayes"]["nll"], abs=1e-5)
    assert set(evaluation["modes"]) == {"sinusoid", "linear"}
    assert json.loads((folder / "run" / "result.json").read_text()) == figures


def test_a_tracked_run_holds_parameters_metrics_and_artefacts(plain_run):
    workplace, figures = plain_run
    run = read_run(workplace, figures["run_id"])
    assert run.info.status == "FINISHED"
    settings = read_yaml(workplace / "run" / "settings.yaml")
    assert run.data.params == {name: str(value) for name, value in flatten(settings.model_dump(mode="json")).items()}
    assert run.data.params["seed"] == "5"
    assert run.data.tags["recipe"] == "two-modes"
    assert {"host", "torch", "run_folder"} <= set(run.data.tags)
    client = MlflowClient(f"sqlite:///{workplace / 'runs' / 'mlflow.db'}")
    history = client.get_metric_history(figures["run_id"], "train/nll")
    steps = [json.loads(line) for line in (workplace / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(point.step, point.value) for point in history] == [(row["step"], row["train/nll"]) for row in steps]
    assert [point.step for point in history] == [1, 2, 3, 4]
    expected = {"train/sinusoid/nll", "train/linear/mse", "train/gradient_norm", "speed/tasks_per_s", "speed/compute_s"}
    expected |= {
        "speed/communication_s",
        "staleness/mean",
        "system/cpu_utilization_percentage",
        "test/modes/linear/nll",
    }
    assert expected <= set(run.data.metrics)
    assert [name for name in run.data.metrics if entry(name) is None] == []
    assert run.data.metrics["test/nll"] == pytest.approx(figures["evaluation"]["nll"])
    assert [file.path for file in client.list_artifacts(figures["run_id"], "checkpoint")] == [
        "checkpoint/checkpoint-00000004.mcb"
    ]
    drawn = {file.path for file in client.list_artifacts(figures["run_id"], "figures")}
    names = ["posterior_predictive", "responsibilities", "calibration", "learning_curve"]
    names += ["mode_tasks", "mode_confusion", "mode_members"]
    assert drawn == {f"figures/{name}.png" for name in names}
    assert {"result.json", "settings.yaml"} <= {file.path for file in client.list_artifacts(figures["run_id"])}


def test_evaluation_of_a_saved_run_repeats_its_figures(plain_run, workplace):
    run, figures = plain_run.folder / "run", plain_run.figures
    (workplace / "runs" / "two-modes").mkdir()
    (workplace / "runs" / "two-modes" / "run").symlink_to(run)
    for name in (str(run), figures["run_id"], figures["checkpoint"]):
        assert main(["evaluate", name, "--json", "again.json"]) == 0
        again = json.loads((workplace / "again.json").read_text())
        assert {key: again[key] for key in figures["evaluation"]} == figures["evaluation"]
    assert main(["evaluate", str(run), "--out", "drawn", "--evaluation.num-tasks", "20"]) == 0
    assert json.loads((workplace / "drawn" / "result.json").read_text())["num_tasks"] == 20
    assert (workplace / "drawn" / "figures" / "learning_curve.png").exists()


def test_a_damaged_checkpoint_is_refused_naming_the_one_before(plain_run, workplace, capsys):
    checkpoints = shutil.copytree(plain_run.folder / "run" / "checkpoints", workplace / "copied")
    before, newest = sorted(checkpoints.glob("*.mcb"))[-2:]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert main(["evaluate", "copied"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{newest} is truncated or damaged" in said and f"evaluate the one before, {before}" in said


def test_a_checkpoint_is_found_through_the_tracking_store_alone(plain_run, tmp_path, monkeypatch):
    folder, figures = plain_run
    monkeypatch.chdir(tmp_path)
    store = f"sqlite:///{folder / 'runs' / 'mlflow.db'}"
    assert main(["evaluate", figures["run_id"], "--tracking-uri", store, "--json", "again.json"]) == 0
    assert json.loads((tmp_path / "again.json").read_text())["nll"] == figures["evaluation"]["nll"]


def test_saved_settings_run_again_to_the_same_parameters(plain_run, constant_run, workplace):
    folder, figures = plain_run
    assert main(["train", "--config", str(folder / "run" / "settings.yaml"), "--out=again", "--json=again.json"]) == 0
    again = json.loads((workplace / "again.json").read_text())
    assert again["params_sha256"] == figures["params_sha256"] != constant_run.figures["params_sha256"]
    assert again["evaluation"] == figures["evaluation"]


def test_the_average_of_a_run_that_keeps_one_is_what_is_evaluated(plain_run, train, workplace):
    figures, plain = train("--out=run", "--seed=5", "--optimizer.average-decay=0.9"), plain_run.figures
    assert figures["params_sha256"] == plain["params_sha256"]
    assert figures["evaluation"]["nll"] != plain["evaluation"]["nll"]
    checkpoint = load(figures["checkpoint"])
    learner = trained_learner(read_yaml(workplace / "run" / "settings.yaml"), checkpoint)
    np.testing.assert_array_equal(initial_parameters(learner), checkpoint.average)
    assert main(["evaluate", "run", "--json=again.json"]) == 0
    assert json.loads((workplace / "again.json").read_text())["nll"] == figures["evaluation"]["nll"]


def test_a_stopped_run_resumes_to_the_same_parameters_in_the_same_tracked_run(constant_run, train, workplace, capsys):
    whole = constant_run.figures
    half = train("--out=half", "--optimizer.schedule=constant", "--train.num-steps=2")
    capsys.readouterr()
    assert main(["train", "two-modes", "--resume", "--out=half", "--train.num-steps=4", "--json=half.json"]) == 0
    resumed = json.loads((workplace / "half.json").read_text())
    assert resumed["params_sha256"] == whole["params_sha256"] != half["params_sha256"]
    assert resumed["num_tasks"] == whole["num_tasks"]
    assert resumed["evaluation"] == whole["evaluation"]
    assert resumed["run_id"] == half["run_id"]
    steps = [json.loads(line)["step"] for line in (workplace / "half" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_resume_without_a_folder_takes_the_newest_run_of_the_recipe(train, workplace):
    first = train("--seed=1")
    assert main(["train", "two-modes", "--resume", "--json=again.json"]) == 0
    again = json.loads((workplace / "again.json").read_text())
    assert (again["run_id"], again["params_sha256"]) == (first["run_id"], first["params_sha256"])


def test_a_folder_that_holds_a_run_is_refused_and_kept(plain_run, workplace, capsys):
    shutil.copytree(plain_run.folder / "run", workplace / "run")
    before = {path: path.read_bytes() for path in (workplace / "run").rglob("*") if path.is_file()}
    assert main(["train", "two-modes", "--out=run"]) == 2
    assert "already holds a run: continue it with --resume, or choose another --out" in capsys.readouterr().err
    assert main(["train", "two-modes", "--resume", "--out=run", "--modes.num-modes=4"]) == 2
    assert "modes.num_modes is 3 there, not 4" in capsys.readouterr().err
    for option, there in (("policy.kind=stale", "policy.kind is sync"), ("gradient-wire=bfloat16", "wire is float32")):
        assert main(["train", "two-modes", "--resume", "--out=run", f"--cluster.{option}"]) == 2
        assert f"{there} there, not {option.split('=')[1]}" in capsys.readouterr().err
    assert main(["train", "three-modes", "--resume", "--out=run"]) == 2
    assert "holds a run of recipe 'two-modes', not 'three-modes'" in capsys.readouterr().err
    assert main(["train", "two-modes", "--resume", "--out=run", "--train.num-steps=3"]) == 1
    assert "num_steps=3 must be at least 4" in capsys.readouterr().err
    for path, content in before.items():
        assert path.name in ("settings.yaml", "run.json", "metrics.jsonl") or path.read_bytes() == content


def test_a_run_goes_on_untracked_if_the_user_says_so(train, workplace, caplog):
    figures = train("--tracking-uri=http://127.0.0.1:9", "--tracking-optional", "--out=run")
    assert figures["num_steps"] == 4
    assert "the run is not tracked: the tracking server http://127.0.0.1:9 does not answer" in caplog.text


def test_a_run_that_fails_is_tracked_as_failed_and_keeps_its_checkpoint(train, workplace, capsys, monkeypatch):
    from cluster.gradient import MetaGradient

    def not_finite(self, parameters, shard):
        report = compute(self, parameters, shard)
        return report._replace(gradient=np.full_like(report.gradient, np.nan)) if shard.version >= 2 else report

    compute = MetaGradient.__call__
    monkeypatch.setattr(MetaGradient, "__call__", not_finite)
    words = ["--train.num-steps=9", "--train.checkpoint-every=1", "--optimizer.max-refused-steps=1", "--out=run"]
    with pytest.raises(AssertionError):
        train(*words)
    assert "not finite" in capsys.readouterr().err
    run_id = json.loads((workplace / "run" / "run.json").read_text())["run_id"]
    assert read_run(workplace, run_id).info.status == "FAILED"
    assert (workplace / "run" / "checkpoints" / "checkpoint-00000002.mcb").exists()


def test_measured_curves_are_evaluated_beside_the_baselines(curves_run, workplace, curves_file, capsys):
    evaluation = curves_run.figures["evaluation"]
    families = {"lines", "parabolas", "pooled"}
    assert set(evaluation["families"]) == families
    assert {"training mean", "ridge line", "Gaussian process"} <= set(evaluation["baselines"])
    for rows in (evaluation["families"], *evaluation["baselines"].values()):
        assert set(rows) == families
        for row in rows.values():
            assert {"rmse", "nll", "coverage_50", "coverage_90"} <= set(row)
    pooled = evaluation["families"]["pooled"]
    members = [evaluation["families"][name]["nll"] for name in ("lines", "parabolas")]
    assert evaluation["nll"] == pooled["nll"] == pytest.approx(sum(members) / 2)
    assert "bayes" not in evaluation
    assert main(["evaluate", str(curves_run.folder / "run"), "--data", str(curves_file), "--json=again.json"]) == 0
    assert "Gaussian process" in capsys.readouterr().out
    assert json.loads((workplace / "again.json").read_text())["nll"] == evaluation["nll"]


def test_a_source_of_ones_own_gets_a_bayes_limit_of_its_own(train):
    evaluation = train("--tasks.noise-scale=0.5", "--evaluation.num-bayes-tasks=20")["evaluation"]
    assert evaluation["bayes"]["num_tasks"] == 20
    assert "bayes" not in train("--tasks.noise-scale=0.5", "--evaluation.num-bayes-tasks=0")["evaluation"]


@pytest.mark.parametrize("recipe", ["five-modes-svgd", "five-modes-maml"])
def test_other_recipes_run_through(recipe, workplace):
    words = ["--train.num-steps=2", "--train.meta-batch=5", "--network.hidden=8", "--evaluation.num-tasks=20"]
    more = ["--evaluation.num-mapping-tasks=10", "--cluster.num-workers=0", "--json=figures.json", "--out=run"]
    more.append("--tracking.log-model=false")
    assert main(["train", recipe, *words, *more]) == 0
    assert math.isfinite(json.loads((workplace / "figures.json").read_text())["evaluation"]["nll"])
    is_drawn = (workplace / "run" / "figures" / "embeddings.png").exists()
    assert is_drawn == (recipe == "five-modes-svgd")
