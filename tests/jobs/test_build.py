import pickle

import numpy as np
import pytest
import torch
from tiny_runs import TINY

from cluster.aggregation import AggregationPlan
from cluster.errors import UserError
from cluster.local_group import LocalGroup
from cluster.policies import Asynchronous, Stale
from cluster.shards import Shard
from jobs.building.objects import GradientBuilder, build_learner, build_plan, build_source
from jobs.errors import UsageError
from jobs.settings.file import to_yaml
from jobs.settings.overrides import override, split
from jobs.settings.recipes import RECIPES, recipe
from jobs.settings.tree import Settings
from mcb.tasks.curves import CurveTasks


def tiny(name: str = "five-modes", *words: str) -> Settings:
    """A recipe cut down, with overrides."""
    own = [word for word in TINY if word.startswith(("--train", "--network", "--cluster"))]
    return override(recipe(name), split([*own, *words])[0])


def flat(settings: Settings) -> np.ndarray:
    learner = build_learner(settings, build_source(settings))
    return torch.nn.utils.parameters_to_vector(learner.parameters()).detach().numpy()


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "curves"])
def test_every_recipe_gives_a_finite_gradient_that_reaches_every_parameter(name, tmp_path):
    settings = tiny(name)
    plan = build_plan(settings, tmp_path, to_yaml(settings), resume=False)
    report = plan.build_gradient()(plan.parameters, Shard(0, 0, 0, 10, 10))
    assert np.isfinite(report.gradient).all()
    start = 0
    for parameter, shape in plan.parameter_shapes.items():
        stop = start + int(np.prod(shape))
        assert np.abs(report.gradient[start:stop]).max() > 0, parameter
        start = stop


def test_initial_parameters_are_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    first = flat(tiny())
    torch.manual_seed(2)
    before = torch.get_rng_state()
    np.testing.assert_array_equal(first, flat(tiny()))
    torch.testing.assert_close(before, torch.get_rng_state())
    assert np.abs(first - flat(tiny("five-modes", "--seed=1"))).max() > 0


def test_a_builder_that_was_pickled_computes_the_same_gradient(tmp_path):
    settings = tiny("five-modes-svgd")
    plan = build_plan(settings, tmp_path, "", resume=False)
    shard = Shard(3, 1, 35, 40, 10)
    mine = GradientBuilder(settings)()(plan.parameters, shard)
    other = pickle.loads(pickle.dumps(plan.build_gradient))()(plan.parameters, shard)
    np.testing.assert_array_equal(mine.gradient, other.gradient)
    assert mine.statistics == other.statistics


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--modes.kind=embedding", "embedding.* read the task encoder: give --encoder.kind deep-set"),
        ("--modes.gate=both", "codebook.* read the task encoder: give --encoder.kind deep-set"),
        ("--network.adapted=nothing", "adapted='nothing' selects no parameter"),
        ("--network.adapted=all", "selects combine.weight, which adapted='all' selects too"),
        ("--likelihood.min-scale=2", "init_scale=0.5"),
        ("--tasks.families=linear,linear", "each once"),
        ("--optimizer.name=adm", "adm"),
        ("--optimizer.momentum=0.5", "'soap' has no option momentum"),
        ("--optimizer.betas=0.9", "must be two numbers"),
        ("--optimizer.options=normalize_gradient", "'normalize_gradient' must be NAME=VALUE with a number"),
        ("--optimizer.options=weight_decay=0.1,weight_decay=0.2", "option weight_decay is given twice"),
        ("--optimizer.options=shampoo_beta=high", "'shampoo_beta=high' must be NAME=VALUE with a number"),
        ("--optimizer.options=nesterov=true", "'soap' has no option nesterov: it has .*precondition_frequency"),
        ("--cluster.num-slices=1000", "num_slices=1000 must be 1"),
        ("--train.num-shards=11", "num_shards=11 must lie in 1..meta_batch=10"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_starts(words, message, tmp_path):
    with pytest.raises((UserError, ValueError), match=message):
        build_plan(tiny("five-modes", words), tmp_path, "", resume=False)


def test_further_options_of_an_optimizer_reach_its_plan(tmp_path):
    words = (
        "--optimizer.name=sgd --optimizer.betas= --optimizer.momentum=0.9 --optimizer.options=nesterov=true,dampening=0"
    )
    plan = build_plan(tiny("five-modes", *words.split()), tmp_path, "", resume=False)
    assert plan.optimizer.options == {"momentum": 0.9, "nesterov": True, "dampening": 0}


def test_an_option_beside_its_own_setting_is_refused(tmp_path):
    words = (
        "--optimizer.name=sgd",
        "--optimizer.betas=",
        "--optimizer.momentum=0.9",
        "--optimizer.options=momentum=0.5",
    )
    with pytest.raises(UserError, match="option momentum is given twice"):
        build_plan(tiny("five-modes", *words), tmp_path, "", resume=False)


def test_what_the_server_is_told_reaches_its_plan(tmp_path):
    words = (
        "--cluster.policy.kind=stale --cluster.policy.bound=3 --cluster.num-slices=2 --cluster.gradient-wire=bfloat16"
    )
    words += (
        " --cluster.straggler-factor=none --optimizer.name=adam --optimizer.betas 0.5 0.6 --optimizer.average-decay=0.9"
    )
    plan = build_plan(tiny("five-modes", *words.split()), tmp_path, "", resume=False)
    assert plan.aggregation == AggregationPlan(Stale(3), 2, "bfloat16", "float32", None)
    assert plan.optimizer.options == {"betas": (0.5, 0.6)} and plan.optimizer.average_decay == 0.9
    default = build_plan(tiny(), tmp_path, "", resume=False)
    assert default.aggregation == AggregationPlan() and default.optimizer.options == {"betas": (0.9, 0.99)}
    asynchronous = build_plan(tiny("five-modes", "--cluster.policy.kind=async"), tmp_path, "", resume=False)
    assert asynchronous.aggregation.policy == Asynchronous()


@pytest.mark.parametrize("name", ["five-modes", "five-modes-svgd"])
def test_ranks_of_a_recipe_have_its_meta_gradient(name, tmp_path):
    plan = build_plan(tiny(name, "--cluster.ranks-per-worker=3"), tmp_path, "", resume=False)
    assert plan.group is not None and plan.group.num_ranks == 3
    shard = Shard(0, 0, 0, 10, 10)
    alone, together = plan.build_gradient(), LocalGroup(pickle.loads(pickle.dumps(plan.group)), num_threads=1)
    expected = alone(plan.parameters, shard).gradient
    difference = together(plan.parameters, shard).gradient - expected
    assert np.linalg.norm(difference) <= 1e-4 * np.linalg.norm(expected)


def test_more_ranks_than_particles_and_modes_are_refused_naming_both(tmp_path):
    settings = tiny("five-modes-maml", "--cluster.ranks-per-worker=7")
    with pytest.raises(
        UsageError, match=r"ranks_per_worker=7 must lie in 1..1: .* particles, here 1, .* modes, here 1"
    ):
        build_plan(settings, tmp_path, "", resume=False)
    settings = tiny("five-modes", "--cluster.ranks-per-worker=1000")
    with pytest.raises(UsageError, match=r"ranks_per_worker=1000 must lie in 1..\d+: .* particles, here 1, .* modes"):
        build_plan(settings, tmp_path, "", resume=False)


def test_a_gpu_that_is_not_there_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    plan = build_plan(tiny("five-modes", "--cluster.gpus-per-worker=0.5"), tmp_path, "", resume=False)
    assert plan.gpus_per_worker == 0.5
    with pytest.raises(UsageError, match=r"gpus_per_worker=0.5, but torch .* finds no GPU on .* CUDA build"):
        plan.build_gradient()


def test_curves_need_a_file():
    with pytest.raises(UsageError, match="give --data FILE"):
        build_source(recipe("curves"))


def test_curves_are_split_into_disjoint_tasks(curves_file):
    settings = override(recipe("curves"), {"tasks.path": [str(curves_file)]})
    training, test = build_source(settings, "train"), build_source(settings, "test")
    assert isinstance(training, CurveTasks)
    assert isinstance(test, CurveTasks)
    assert not set(training.task_names) & set(test.task_names)
    assert training.x_size == 2
