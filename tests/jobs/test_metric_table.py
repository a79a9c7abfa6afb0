"""The table of metrics and what is recorded are the same: neither has a name that the other lacks."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from test_step_log import Notebook, record
from tiny_runs import CLUSTERED, TINY

from cluster.metric_names import METRICS, TOTALS, entry, joined, table
from cluster.plan import StepRecord
from cluster.tracking import system_metrics
from cluster.training import run_meta_training
from jobs.building.objects import build_learner, build_plan, build_source
from jobs.evaluation.scores import evaluate
from jobs.runs.step_log import StepLog, step_metrics
from jobs.search.tracking import best_metrics, report_metrics
from jobs.search.trials import Report
from jobs.settings.overrides import override, split
from jobs.settings.recipes import recipe
from jobs.settings.tree import Settings
from jobs.training.record import evaluation_metrics
from mcb.baselines.training_mean import TrainingMean

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def entries(names: Iterable[str]) -> set[str]:
    """The rows of the table that the names belong to; a name without one fails the test."""
    found = {name: entry(name) for name in names}
    assert [name for name, row in found.items() if row is None] == [], "recorded, but not in cluster/metric_names.py"
    return {row.name for row in found.values() if row is not None}


def seen_in(*places: str) -> set[str]:
    return {metric.name for metric in METRICS if set(places) & set(metric.seen)}


def settings_of(name: str, *words: str) -> Settings:
    given, _ = split([*TINY, *words])
    return override(recipe(name), given)


def recorded_steps(settings: Settings, folder: Path) -> set[str]:
    """What a run's meta-steps record."""
    records: list[StepRecord] = []
    run_meta_training(build_plan(settings, str(folder), "", resume=False), records.append, lambda: False)
    return {name for record in records for name in step_metrics(record)}


def recorded_evaluation(settings: Settings) -> set[str]:
    """What is recorded of the evaluation of a learner that learnt nothing."""
    learner = build_learner(settings, build_source(settings))
    return set(evaluation_metrics(evaluate(learner, settings, lambda *_: None)))


def test_all_that_is_recorded_is_in_the_table_and_all_in_the_table_is_recorded(tmp_path, curves_file, monkeypatch):
    monkeypatch.setattr("mcb.baselines.fit_baselines", lambda tasks: {"training mean": TrainingMean.fit(tasks)})
    settings = settings_of("two-modes", *CLUSTERED)
    curves = settings_of("curves", f"--tasks.path={curves_file}", "--tasks.num-support=5", "--evaluation.num-rounds=1")
    steps = entries(recorded_steps(settings, tmp_path))
    assert steps == seen_in("metrics.jsonl") > seen_in("Prometheus")
    test = entries(recorded_evaluation(settings) | recorded_evaluation(curves))
    assert test == seen_in("result.json")
    report = Report(num_steps=1, objective=0.5, seconds=1.0, num_modes=2)
    search = entries([*report_metrics(report), *best_metrics({"nll": 0.1, "test_nll": 0.2, "test_nll_spread": 0.01})])
    assert steps | test | search | entries(system_metrics()) == seen_in("MLflow") == {metric.name for metric in METRICS}


def test_the_document_has_the_table():
    assert table() in DOCUMENT.read_text(), (
        "docs/metrics.md is old: put in what `python -m cluster.metric_names` prints"
    )


def test_every_row_says_what_a_metric_means_and_has_a_name_of_its_own():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(metric.meaning and metric.seen for metric in METRICS)
    assert all(
        "Prometheus" not in metric.seen for metric in METRICS if any(part.isupper() for part in metric.name.split("/"))
    )


@pytest.mark.parametrize("family", ["m/s", "20 °C (dry)", "a.b", "..", "", "π"])
def test_a_family_of_any_name_is_recorded_under_a_name_that_mlflow_takes(workplace, family):
    client = MlflowClient(f"sqlite:///{workplace / 'runs' / 'mlflow.db'}")
    run = client.create_run("0").info.run_id
    client.log_metric(run, joined("train", family, "nll"), 1.0)
    assert entries(client.get_run(run).data.metrics) == {"train/MODE/nll"}


def test_mlflow_has_the_last_of_a_running_total_and_the_mean_of_everything_else(tmp_path):
    assert {"train/refused_steps", "cluster/restarts"} == TOTALS
    notebook = Notebook()
    with StepLog(tmp_path / "steps.jsonl", notebook, num_steps=1000) as log:
        for version in (1, 2):
            log.add(record(version)._replace(restarts=version, refused=version, repeats=version))
    ((_, values),) = notebook.told
    assert (values["cluster/restarts"], values["train/refused_steps"], values["server/repeats"]) == (2, 2, 1.5)
