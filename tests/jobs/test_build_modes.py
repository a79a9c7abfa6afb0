import numpy as np
import pytest
from tiny_runs import TINY

from cluster.errors import UserError
from cluster.shards import Shard, adopt
from cluster.survey import initial_state
from jobs.building.modes import build_strategy
from jobs.building.objects import build_learner, build_plan, build_source
from jobs.settings.modes import ClusteredModes
from jobs.settings.overrides import override, split
from jobs.settings.recipes import recipe
from jobs.settings.tree import Settings
from mcb.modes.clustered import Clustered
from mcb.modes.clustering import HDBSCAN, DirichletProcessMixture
from mcb.modes.dp_means import DPMeans

NEED_A_NUMBER = ("k-means", "mini-batch-k-means", "gaussian-mixture", "agglomerative", "spectral")
FIND_THE_NUMBER = ("dirichlet-process-mixture", "hdbscan", "dp-means")


def clustered(*words: str) -> Settings:
    """A tiny run with clustered modes."""
    overrides, others = split([*TINY, "--modes.kind=clustered", "--modes.num-reservoir=40", *words])
    assert not others
    return override(recipe("two-modes"), overrides)


@pytest.mark.parametrize("strategy", NEED_A_NUMBER)
def test_a_strategy_that_needs_a_number_has_as_many_slots_and_is_refused_without(strategy):
    assert build_strategy(ClusteredModes(strategy=strategy, num_modes=7)).num_clusters == 7
    with pytest.raises(UserError, match=f"modes.strategy={strategy} needs the number of clusters: give --modes.num-"):
        build_strategy(ClusteredModes(strategy=strategy))


@pytest.mark.parametrize("strategy", FIND_THE_NUMBER)
def test_a_strategy_that_finds_the_number_needs_none(strategy):
    assert build_strategy(ClusteredModes(strategy=strategy)).num_clusters is None
    settings = clustered(f"--modes.strategy={strategy}", "--modes.num-modes=none")
    assert build_learner(settings, build_source(settings)).modes.num_modes == 32


def test_hdbscans_own_choice_of_the_smallest_cluster_must_fit_the_reservoir():
    assert build_strategy(ClusteredModes(strategy="hdbscan", num_reservoir=5)) == HDBSCAN()
    with pytest.raises(UserError, match=r"modes\.num_reservoir=4 must be at least 5, the tasks of hdbscan's smallest"):
        build_strategy(ClusteredModes(strategy="hdbscan", num_reservoir=4))
    assert build_strategy(ClusteredModes(strategy="hdbscan", num_reservoir=4, min_cluster_size=2)) == HDBSCAN(2)


def test_what_a_strategy_has_of_its_own_reaches_it():
    chosen = {"dirichlet-process-mixture": "concentration", "hdbscan": "min_cluster_size", "dp-means": "radius"}
    built = [
        build_strategy(ClusteredModes.model_validate({"strategy": strategy, name: 9, "num_modes": 5}))
        for strategy, name in chosen.items()
    ]
    assert built == [DirichletProcessMixture(5, 9.0), HDBSCAN(9), DPMeans(9.0)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--modes.strategy=spectral --modes.num-modes=none", "strategy=spectral needs the number of clusters"),
        ("--modes.num-modes=41", "modes.num_reservoir=40 must be at least modes.num_modes=41"),
        ("--modes.strategy=hdbscan --modes.min-cluster-size=41", "num_reservoir=40 must be at least modes.min_cluster"),
        (
            "--modes.representation=embedding",
            r"modes \(clustered\) read the task encoder: give --encoder.kind deep-set",
        ),
        ("--modes.refresh-every=10 --modes.refresh-lag=11", "refresh_lag=11 must lie in 1..refresh_every=10"),
        ("--modes.radius=2", "modes.radius is for modes.strategy=dp-means, and modes.strategy is dirichlet-process"),
        (
            "--modes.kind=codebook --modes.concentration=1 --modes.gate=both --encoder.kind=deep-set",
            "modes.concentration=1 needs modes.gate=weights, not both",
        ),
        ("--cluster.policy.kind=stale", "--cluster.policy.kind sync"),
    ],
)
def test_what_cannot_be_clustered_is_refused_before_anything_starts(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build_plan(clustered(*words.split()), tmp_path, "", resume=False)


@pytest.mark.parametrize("representation", ["statistics", "embedding", "gradient", "adapted"])
def test_clustered_modes_have_a_finite_gradient_and_a_survey(representation, tmp_path):
    settings = clustered(f"--modes.representation={representation}", "--encoder.kind=deep-set")
    plan = build_plan(settings, tmp_path, "", resume=False)
    assert plan.refresh is not None
    assert (plan.refresh.every, plan.refresh.lag, plan.refresh.num_tasks) == (100, 20, 40)
    compute = plan.build_gradient()
    adopt(compute, plan.refresh.state)
    report = compute(plan.parameters, Shard(0, 0, 0, 10, 10, num_surveyed=40))
    assert np.isfinite(report.gradient).all()
    assert report.survey is not None and report.survey.shape[0] == 40
    refreshed = plan.refresh.build()(0, plan.parameters, plan.refresh.state, report.survey)
    assert refreshed.state.shape == plan.refresh.state.shape
    adopt(compute, refreshed.state)
    again = compute(plan.parameters, Shard(1, 0, 10, 20, 10))
    assert np.isfinite(again.gradient).all()
    reads_encoder = any(name.startswith("task_encoder.") for name in plan.parameter_shapes)
    assert reads_encoder == (representation == "embedding")


def test_a_codebook_with_a_concentration_learns_its_number_of_codes(tmp_path):
    settings = clustered("--modes.kind=codebook", "--modes.concentration=2")
    plan = build_plan(settings, tmp_path, "", resume=False)
    assert plan.refresh is not None
    compute = plan.build_gradient()
    adopt(compute, plan.refresh.state)
    survey = compute(plan.parameters, Shard(0, 0, 0, 10, 10, num_surveyed=40)).survey
    assert survey is not None and survey.shape == (40, 3)
    metrics = plan.refresh.build()(0, plan.parameters, plan.refresh.state, survey).metrics
    assert {"num_modes", "silhouette", "accuracy", "accuracy_ceiling"} <= set(metrics)


def test_modes_without_a_state_have_no_refreshes(tmp_path):
    settings = override(recipe("two-modes"), split(TINY)[0])
    assert build_plan(settings, tmp_path, "", resume=False).refresh is None


def test_a_refresh_is_that_of_the_modes_at_the_survey_with_its_agreement_with_the_truth(tmp_path):
    settings = clustered("--modes.strategy=k-means")
    plan = build_plan(settings, tmp_path, "", resume=False)
    assert plan.refresh is not None
    rows = np.random.default_rng(0).normal(size=(40, 10)).astype(np.float32)
    rows[:20] += 30 * (np.arange(40)[:20, None] % 2)  # far apart by true mode
    rows[20:] += 30 * (np.arange(40)[20:, None] % 2)
    refresh = plan.refresh.build()
    first = refresh(0, plan.parameters, plan.refresh.state, rows)
    other = refresh(100, plan.parameters, first.state, rows)
    again = refresh(0, plan.parameters, plan.refresh.state, rows)
    assert first.state.tobytes() == again.state.tobytes() and first.metrics == again.metrics
    assert {"num_modes", "silhouette", "ari", "nmi", "purity", "accuracy", "accuracy_ceiling"} == set(first.metrics)
    assert first.metrics["purity"] == 1.0 and first.metrics["num_modes"] == 3
    assert other.metrics["stability"] == pytest.approx(1.0)
    modes = build_learner(settings, build_source(settings)).modes
    assert isinstance(modes, Clustered)
    assert first.state.tobytes() != plan.refresh.state.tobytes()
    assert initial_state(build_learner(settings, build_source(settings))).tobytes() == plan.refresh.state.tobytes()
