import pytest
import torch
from tiny_runs import TINY

from jobs.building.bayes import bayes_limit
from jobs.building.objects import build_learner, build_source
from jobs.evaluation.scores import MAPPING_SEED, TEST_SEED, evaluate
from jobs.settings.overrides import override, split
from jobs.settings.recipes import recipe
from mcb.limits import load_reference
from mcb.randomness import fold_key


def settings(*words):
    return override(recipe("two-modes"), split([*TINY, *words])[0])


def evaluated(chosen):
    learner = build_learner(chosen, build_source(chosen))
    return evaluate(learner, chosen, lambda what, num_done, num_all: None)


@pytest.mark.parametrize("name", ["two-modes", "three-modes", "five-modes"])
def test_the_test_tasks_are_those_of_the_shipped_limit(name):
    tasks = build_source(recipe(name), "test").sample(TEST_SEED, torch.arange(50))
    torch.testing.assert_close(tasks.query_y.squeeze(-1), load_reference(name).query_y[:50])
    assert bayes_limit(build_source(recipe(name))) == pytest.approx(load_reference(name).nll.mean().item())


def test_test_and_mapping_tasks_are_never_training_tasks_and_the_same_for_every_seed():
    assert len({TEST_SEED, MAPPING_SEED, *(fold_key(seed, "train") for seed in range(100))}) == 102
    first, second = (evaluated(settings(f"--seed={seed}")).scores for seed in (1, 2))
    torch.testing.assert_close(first.mode, second.mode)
    assert not torch.equal(first.nll, second.nll)


@pytest.mark.parametrize("words", [[], ["--inference.kind=svgd", "--inference.num-particles=2"]])
def test_batches_do_not_change_the_figures(words):
    whole, parts = (evaluated(settings(f"--evaluation.batch-size={size}", *words)) for size in (60, 7))
    torch.testing.assert_close(whole.scores, parts.scores, rtol=1e-4, atol=1e-4)
    assert len(whole.responsibilities) == 60


def test_an_oracle_that_is_told_the_mode_identifies_every_task():
    words = [word for word in TINY if not word.startswith("--modes")]
    told = override(recipe("two-modes"), split([*words, "--modes.kind=oracle"])[0])
    figures = evaluated(told).figures
    assert figures["mode_accuracy"] == 1.0
    assert figures["ari"] == pytest.approx(1.0)
