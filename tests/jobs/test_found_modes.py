import pytest
import torch
from tiny_runs import TINY
from torch import Tensor

from jobs.building.objects import build_learner, build_source
from jobs.evaluation.found_modes import FoundModes, find_modes, prior_predictive
from jobs.evaluation.scores import TEST_SEED
from jobs.settings.overrides import override, split
from jobs.settings.recipes import recipe
from mcb.learner import ModeConditionalBayesianMAML
from mcb.likelihoods import Gaussian


def untrained(*words: str) -> tuple[ModeConditionalBayesianMAML, FoundModes]:
    """A tiny learner and what it tells of 30 test tasks."""
    settings = override(recipe("two-modes"), split([*TINY, *words])[0])
    source = build_source(settings)
    learner = build_learner(settings, source)
    return learner, find_modes(learner, source, 30)


def test_every_task_belongs_to_one_mode_and_every_mode_has_a_task_of_its_own():
    _, found = untrained()
    assert sum(mode.num_tasks for mode in found.modes) == 30
    assert [mode.num_tasks for mode in found.modes] == sorted((mode.num_tasks for mode in found.modes), reverse=True)
    for mode in found.modes:
        assert sum(mode.families.values()) == mode.num_tasks
        assert found.label[mode.typical] == mode.slot
    assert sum(mode.share for mode in found.modes) <= 1 + 1e-6


def test_the_typical_task_has_the_median_evidence_of_its_mode():
    learner, found = untrained()
    tasks = build_source(recipe("two-modes")).sample(TEST_SEED, torch.arange(30))
    with torch.no_grad():
        evidence = learner.adapt_tasks(tasks.support, tasks.mode, None).log_evidence
    for mode in found.modes:
        members = evidence[found.label == mode.slot, mode.slot]
        assert evidence[mode.typical, mode.slot] == pytest.approx(members.median().item())


def test_an_oracles_modes_are_the_families():
    words = [word for word in TINY if not word.startswith("--modes")]
    settings = override(recipe("two-modes"), split([*words, "--modes.kind=oracle"])[0])
    source = build_source(settings)
    found = find_modes(build_learner(settings, source), source, 30)
    assert [dict(mode.families) for mode in found.modes] == [{"sinusoid": 15}, {"linear": 15}]
    assert found.agreement["ari"] == pytest.approx(1) and found.agreement["accuracy"] == 1
    assert [mode.share for mode in found.modes] == [0.5, 0.5]


@torch.no_grad()
def test_the_prior_predictive_of_a_linear_head_is_its_gaussian_in_closed_form():
    learner, _ = untrained()
    x = torch.linspace(-5, 5, 7)[None, :, None].expand(2, -1, -1)
    slots = torch.tensor([2, 0])
    predictive = prior_predictive(learner, slots, x, x)
    for row, slot in enumerate(slots):
        mean, log_scale, conditional, offset = unpacked(learner, slot)
        basis = torch.eye(len(mean))
        nothing = learner.model(torch.zeros_like(mean), conditional, x[row])
        features = torch.stack([(learner.model(one, conditional, x[row]) - nothing)[:, 0] for one in basis], dim=1)
        assert isinstance(learner.likelihood, Gaussian)
        variance = features.square() @ (2 * log_scale).exp() + learner.likelihood.scale(offset).square()
        torch.testing.assert_close(predictive.expectation()[row, :, 0], features @ mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(predictive.variance()[row, :, 0], variance, rtol=1e-4, atol=1e-4)


def unpacked(learner: ModeConditionalBayesianMAML, slot: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (mean, log_scale), conditional, offset = learner.prior_hypernetwork(learner.modes.codes(None)[slot])
    return mean, log_scale, conditional, offset
