import numpy as np
import pytest

from cluster.errors import UserError
from jobs.building.objects import build_learner, build_source
from jobs.evaluation.scores import TEST_SEED, evaluated_indices, score_tasks
from jobs.evaluation.task_scores import ScoredTasks, compare, read_tasks, scored_tasks, write_tasks
from jobs.settings.tree import (
    CurveTasks,
    Evaluation,
    GradientInference,
    Hypernetwork,
    Network,
    RegressionTasks,
    Settings,
)
from mcb.family_scores import family_rows
from mcb.tasks.curves import CurveTasks as CurveSource

SMALL = Settings(
    network=Network(hidden=(4,)),
    inference=GradientInference(num_steps=1, num_particles=1),
    hypernetwork=Hypernetwork(hidden=()),
    evaluation=Evaluation(num_tasks=20, num_mapping_tasks=10, num_bayes_tasks=0, num_rounds=3),
)


def scored(nll, target=None, unit=None, weight=None) -> ScoredTasks:
    num = len(nll)
    unit = np.arange(num) if unit is None else np.array(unit)
    weight = np.full(num, 1 / num) if weight is None else np.array(weight)
    return ScoredTasks(unit, weight, np.arange(num) if target is None else np.array(target), np.array(nll))


def test_the_half_width_is_that_of_a_mean_of_paired_differences():
    generator = np.random.default_rng(0)
    champion = generator.normal(size=50)
    candidate = champion + 0.1 + 0.05 * generator.normal(size=50)
    found = compare(scored(candidate), scored(champion))
    assert found is not None
    assert found.difference == pytest.approx((candidate - champion).mean())
    assert (found.candidate, found.champion) == pytest.approx((candidate.mean(), champion.mean()))
    assert found.half_width == pytest.approx(1.959964 * (candidate - champion).std(ddof=1) / np.sqrt(50), rel=1e-6)
    assert found.num_tasks == 50


def test_draws_of_one_curve_count_once():
    difference = np.array([0.1, 0.4, -0.2, 0.3])
    once = compare(scored(difference), scored(np.zeros(4)))
    unit, repeated = np.repeat(np.arange(4), 3), np.repeat(difference, 3)
    thrice = compare(scored(repeated, unit=unit), scored(np.zeros(12), unit=unit))
    assert once is not None and thrice is not None
    assert thrice.half_width == pytest.approx(once.half_width)
    assert thrice.difference == pytest.approx(once.difference)


def test_a_shorter_evaluation_of_the_same_stream_is_compared_on_what_both_have():
    found = compare(scored([1.0, 2.0, 9.0]), scored([1.0, 1.0]))
    assert found is not None
    assert (found.num_tasks, found.candidate, found.champion) == (2, 1.5, 1.0)


@pytest.mark.parametrize(
    "other",
    [
        scored([1.0, 2.0], target=[0.0, 1.5]),
        scored([1.0, 2.0], unit=[0, 2]),
        scored([1.0, 2.0, 3.0], unit=[0, 1, 1]),
        scored([1.0, 2.0, 3.0], weight=[0.5, 0.25, 0.25]),
    ],
    ids=["other targets", "other tasks", "more draws of curves", "more curves"],
)
def test_other_tasks_are_not_compared(other):
    assert compare(scored([1.0, 2.0]), scored([0.0, 0.0])) is not None
    assert compare(scored([1.0, 2.0]), other) is None


@pytest.mark.parametrize("kind", ["regression", "curves"])
def test_the_weighted_mean_is_the_nll_that_the_run_reports(kind, curves_file, tmp_path):
    tasks = RegressionTasks(families=("linear",)) if kind == "regression" else CurveTasks(path=str(curves_file))
    settings = SMALL.model_copy(update={"tasks": tasks})
    source = build_source(settings, "test")
    indices = evaluated_indices(source, settings.evaluation)
    learner = build_learner(settings, source)
    scores, _ = score_tasks(learner, source, TEST_SEED, indices, 10, "evaluating", lambda *_: None)
    reported = scores.nll.mean().item()
    if isinstance(source, CurveSource):
        reported = family_rows(scores, source.mode_names, source.curve(TEST_SEED, indices))["pooled"]["nll"]
    found = scored_tasks(scores, source, indices)
    assert found.weight @ found.nll == pytest.approx(reported, rel=1e-6)
    assert found.weight.sum() == pytest.approx(1)
    assert len(np.unique(found.unit)) == (20 if kind == "regression" else len(found.unit) // 3)
    again = scored_tasks(scores, source, indices)
    compared = compare(found, again)
    assert compared is not None and compared.difference == 0
    write_tasks(tmp_path / "tasks.parquet", found)
    for name, column in read_tasks(tmp_path / "tasks.parquet")._asdict().items():
        np.testing.assert_array_equal(column, getattr(found, name))


def test_a_file_that_holds_no_test_tasks_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"the test tasks .*x.parquet cannot be read"):
        read_tasks(tmp_path / "x.parquet")
