"""A codebook of learned size: its weights by a Dirichlet posterior, what it prunes and what it splits."""

import math

import pytest
import torch
from jaxtyping import config
from small_learners import adaptive_codebook, make_learner, make_tasks, meta_gradient, refresh
from torch import Tensor

from mcb.modes.adaptive_codebook import AdaptiveCodebook
from mcb.modes.codebook import Codebook
from mcb.modes.definition import RefreshedModes
from mcb.objectives import EvidenceRegularized

UNKNOWN = torch.tensor(-1)


def used(*shares: float, num_tasks: int = 100) -> Tensor:
    """Every task has these responsibilities."""
    return torch.tensor(shares).double().expand(num_tasks, -1)


def test_before_the_first_refresh_it_is_a_codebook_with_even_weights():
    adaptive, codebook, tasks = make_learner("adaptive codebook"), make_learner("codebook, weights"), make_tasks()
    adaptive.modes = AdaptiveCodebook(3, 3).double()
    assert isinstance(codebook.modes, Codebook)
    adaptive.modes.table.data.copy_(codebook.modes.table.data)
    torch.testing.assert_close(adaptive.losses(tasks, None), codebook.losses(tasks, None))
    assert isinstance(adaptive.modes, RefreshedModes)


def test_the_gate_is_the_expected_log_weight_of_the_dirichlet_posterior():
    modes = AdaptiveCodebook(4, 2, concentration=2.0).double()
    refresh(modes, used(0.4, 0.3, 0.2, 0.1))
    posterior = torch.tensor([40.0, 30.0, 20.0, 10.0]).double() + 2.0 / 4
    expected = posterior.digamma() - posterior.sum().digamma()
    torch.testing.assert_close(modes.log_gate(None, UNKNOWN), expected.log_softmax(0))
    draws = torch.distributions.Dirichlet(posterior).sample((200_000,)).log().mean(0)
    torch.testing.assert_close(modes.log_weight, draws, atol=1e-3, rtol=0)


def test_codes_of_little_usage_are_pruned_and_the_others_keep_their_codes():
    modes = AdaptiveCodebook(4, 2, prune_below=0.1).double()
    codes = modes.codes(None).detach().clone()
    found = refresh(modes, used(0.49, 0.02, 0.47, 0.02))
    assert modes.in_use.tolist() == [1, 0, 1, 0] and found.metrics["num_modes"] == 2
    assert modes.log_gate(None, UNKNOWN)[[1, 3]].tolist() == [-math.inf] * 2
    torch.testing.assert_close(modes.codes(None)[[0, 2]], codes[[0, 2]])
    torch.testing.assert_close(modes.table + modes.origin, codes)


def test_the_concentration_is_the_usage_that_a_code_has_before_any_task():
    survey = used(0.97, 0.01, 0.01, 0.01)
    few, many = AdaptiveCodebook(4, 2, 1e-3, split_above=5.0), AdaptiveCodebook(4, 2, 1e3, split_above=5.0)
    assert refresh(few.double(), survey).metrics["num_modes"] == 1
    assert refresh(many.double(), survey).metrics["num_modes"] == 4


def test_a_crowded_code_is_split_into_a_free_slot_near_it_and_shares_its_weight():
    modes = AdaptiveCodebook(4, 6, prune_below=0.2, split_above=2.0).double()
    refresh(modes, used(0.6, 0.36, 0.03, 0.01))
    codes = modes.codes(None).detach()
    assert modes.in_use.tolist() == [1, 1, 1, 0]
    apart = torch.cdist(codes, codes)
    assert 0 < apart[0, 2] < 0.5 * apart[0, 1]
    torch.testing.assert_close(modes.log_weight[0], modes.log_weight[2])
    assert modes.log_weight[1] > modes.log_weight[0]


def test_the_most_crowded_are_split_first_and_none_without_a_free_slot():
    modes = AdaptiveCodebook(5, 2, prune_below=0.1, split_above=1.5).double()
    refresh(modes, used(0.32, 0.35, 0.32, 0.01, 0.0))
    assert modes.in_use.tolist() == [1, 1, 1, 1, 1]
    torch.testing.assert_close(modes.log_weight[3], modes.log_weight[1])
    torch.testing.assert_close(modes.log_weight[4], modes.log_weight[0])
    full = AdaptiveCodebook(2, 2, split_above=1.2).double()
    refresh(full, used(0.8, 0.2))
    assert full.in_use.tolist() == [1, 1] and not full.origin.any()


@pytest.mark.parametrize(("split_above", "num_used"), [(3.9, 2), (4.0, 1), (5.0, 1)])
def test_no_usage_reaches_as_many_even_shares_as_there_are_slots(split_above: float, num_used: int):
    modes = AdaptiveCodebook(4, 2, concentration=1e-3, split_above=split_above).double()
    refresh(modes, used(1.0, 0.0, 0.0, 0.0))
    assert modes.in_use.sum() == num_used


def test_few_codes_in_use_are_split_however_even_their_usage_is():
    modes = AdaptiveCodebook(9, 2, split_above=2.0).double()
    refresh(modes, used(0.25, 0.25, 0.25, 0.25, *[0.0] * 5))
    assert modes.in_use.sum() == 8


def test_codes_that_have_become_equal_are_split_apart():
    modes = AdaptiveCodebook(4, 3, prune_below=0.2, split_above=2.0).double()
    torch.nn.init.constant_(modes.table, 2.0)
    refresh(modes, used(0.6, 0.36, 0.03, 0.01))
    codes = modes.codes(None).detach()
    assert modes.in_use.tolist() == [1, 1, 1, 0] and torch.equal(codes[0], codes[1])
    assert 1e-5 < torch.dist(codes[0], codes[2]) < 1e-1


def test_one_code_always_stays():
    modes = AdaptiveCodebook(3, 2, concentration=1e-6, prune_below=0.99, split_above=100.0).double()
    refresh(modes, used(0.4, 0.3, 0.3))
    assert modes.in_use.sum() >= 1
    torch.testing.assert_close(modes.log_gate(None, UNKNOWN).exp().sum(), torch.tensor(1.0).double())


def test_labels_are_the_most_responsible_codes_that_stay():
    modes = AdaptiveCodebook(3, 2, prune_below=0.3).double()
    survey = torch.tensor([[0.9, 0.1, 0.0]] * 10 + [[0.1, 0.9, 0.0]] * 10 + [[0.3, 0.0, 0.7]]).double()
    found = modes.refresh(survey, 0)
    assert found.labels.tolist() == [0] * 10 + [1] * 10 + [0] and 0.8 < found.metrics["stability"] < 1


def test_a_refresh_changes_nothing_here_and_is_a_function_of_survey_and_seed():
    modes, survey = adaptive_codebook(), used(0.8, 0.1, 0.1, 0.0)
    before = [buffer.clone() for buffer in modes.state()]
    found, again, other = modes.refresh(survey, 1), modes.refresh(survey, 1), modes.refresh(survey, 2)
    for buffer, old, new, same in zip(modes.state(), before, found.state, again.state, strict=True):
        assert torch.equal(buffer, old) and torch.equal(new, same) and new.shape == old.shape and new.dtype == old.dtype
    assert torch.equal(found.state[0], other.state[0])


def test_gradients_are_finite_and_none_reaches_a_code_out_of_use():
    learner, tasks = make_learner("adaptive codebook"), make_tasks()
    modes = learner.modes
    assert isinstance(modes, AdaptiveCodebook) and (modes.in_use == 0).any()
    loss = learner.losses(tasks, None, EvidenceRegularized(1.0)).loss.sum()
    gradients = dict(zip(dict(learner.named_parameters()), meta_gradient(loss, learner), strict=True))
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert not gradients["modes.table"][modes.in_use == 0].any() and gradients["modes.table"].any()


def test_the_survey_is_the_responsibilities():
    learner, tasks = make_learner("adaptive codebook", "svgd"), make_tasks()
    noise = learner.noise(0, torch.arange(3))
    torch.testing.assert_close(
        learner.survey(tasks.support, tasks.mode, noise), learner(tasks, noise).responsibilities.detach()
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AdaptiveCodebook(0, 2), r"num_modes=0 must be at least 1"),
        (lambda: AdaptiveCodebook(2, 2, concentration=0.0), r"concentration=0\.0 must be above 0"),
        (lambda: AdaptiveCodebook(2, 2, prune_below=1.5), r"prune_below=1\.5 must lie in 0\.\.1"),
        (lambda: AdaptiveCodebook(2, 2).refresh(torch.full((3, 2), math.nan), 0), r"is not finite"),
    ],
)
def test_bad_input_is_refused_with_the_numbers(build, message):
    config.update("jaxtyping_disable", True)  # as users run it: without the annotations' checks
    try:
        with pytest.raises(ValueError, match=message):
            build()
    finally:
        config.update("jaxtyping_disable", False)
