"""Clustered modes: their gate, and what a refresh makes of it."""

import math
from typing import cast

import numpy as np
import pytest
import torch
from jaxtyping import config
from small_learners import CODE, clustered, draws, make_learner, make_tasks, meta_gradient, refresh
from torch import Tensor
from torch.distributions import Normal

from mcb.encoders.deep_set import DeepSet
from mcb.learner import ModeConditionalBayesianMAML
from mcb.modes.clustered import Assignment, Clustered
from mcb.modes.clustering import NOISE, DirichletProcessMixture, KMeans
from mcb.modes.codebook import Codebook
from mcb.modes.definition import ModeDefinition, RefreshedModes
from mcb.modes.gate import ClusterGate, fit_clusters
from mcb.modes.oracle import Oracle
from mcb.objectives import EvidenceRegularized

UNKNOWN = torch.tensor(-1)


class Told:
    """A strategy that is told the labels: the first column of the points says which."""

    num_clusters = None

    def __init__(self, *labels: int) -> None:
        self.labels = labels

    def __call__(self, points: np.ndarray, seed: int) -> np.ndarray:
        return np.array(self.labels)


def make(num_modes: int, strategy, assignment: Assignment = "soft", trust: float = 2.0) -> Clustered:
    torch.manual_seed(0)
    return Clustered(num_modes, 5, 2, strategy, assignment, trust).double()


def clouds(*counts: int) -> Tensor:
    """Tight clouds of so many points, ten apart."""
    centres = 10 * torch.arange(len(counts)).double().repeat_interleave(torch.tensor(counts))
    return torch.stack([centres, -centres], dim=1) + 0.5 * draws(sum(counts), 2)


def test_before_the_first_refresh_all_slots_are_alike():
    modes = make(4, KMeans(2))
    torch.testing.assert_close(modes.log_gate(draws(2), UNKNOWN).exp(), torch.full((4,), 0.25).double())
    assert torch.equal(modes.codes(None), modes.table) and torch.equal(modes.mean_code(), modes.table.mean(0))


def test_fresh_soft_slots_are_a_codebook():
    fresh, codebook, tasks = make_learner("clustered, soft"), make_learner("codebook, weights"), make_tasks()
    codes = draws(3, CODE, seed=9)
    fresh.modes = Clustered(3, CODE, CODE, KMeans(2)).double()
    for learner in (fresh, codebook):
        assert isinstance(learner.modes, Clustered | Codebook)
        learner.modes.table.data.copy_(codes)
    torch.testing.assert_close(fresh.losses(tasks, None), codebook.losses(tasks, None))


def test_the_soft_gate_is_bayes_rule_with_the_density_to_the_power_of_trust_per_number():
    modes, representation = make(3, KMeans(2), trust=0.2), torch.tensor([5.1, -5.0]).double()
    refresh(modes, clouds(30, 10))
    assert modes.log_weights is not None
    modes.log_weights.data[:] = torch.tensor([0.5, -0.3, 9.0])
    density = Normal(modes.centre[:2], modes.log_scale[:2].exp()).log_prob(representation).mean(-1)
    expected = (modes.log_weights[:2] + 0.2 * density).softmax(0)
    assert 0.05 < expected[0] < 0.95
    torch.testing.assert_close(modes.log_gate(representation, UNKNOWN).exp()[:2], expected)
    assert modes.log_gate(representation, UNKNOWN)[2] == -math.inf


def test_the_hard_gate_opens_for_the_likeliest_cluster_alone():
    modes = make(4, KMeans(2), "hard")
    refresh(modes, clouds(30, 10))
    for point, slot in ((0.0, 0), (10.0, 1)):
        expected = [0.0 if one == slot else -math.inf for one in range(4)]
        assert modes.log_gate(torch.tensor([point, -point]).double(), UNKNOWN).tolist() == expected


def test_between_two_clusters_of_one_width_a_task_belongs_to_the_larger():
    centre, alike = torch.tensor([[0.0], [2.0], [1.0]]), torch.zeros(3, 1)
    gate = ClusterGate(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.3, 0.7, 0.9]).log(), centre, alike)
    halfway = math.log(0.7 / 0.3) / 2
    places = torch.tensor([[1.0], [1.0 - halfway + 0.01], [1.0 - halfway - 0.01]])
    assert gate.nearest(places).tolist() == [1, 1, 0]


@pytest.mark.parametrize("assignment", ["soft", "hard"])
@pytest.mark.parametrize("objective", [EvidenceRegularized(0.0), EvidenceRegularized(2.0)])
def test_gradients_are_finite_and_none_reaches_a_slot_out_of_use(assignment, objective):
    learner, tasks = make_learner(f"clustered, {assignment}"), make_tasks()
    modes = learner.modes
    assert isinstance(modes, Clustered) and isinstance(learner.task_encoder, DeepSet) and modes.in_use.sum() == 3
    loss = learner.losses(tasks, None, objective).loss.sum()
    gradients = dict(zip(dict(learner.named_parameters()), meta_gradient(loss, learner), strict=True))
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert not gradients["modes.table"][modes.in_use == 0].any() and gradients["modes.table"].any()
    reaches_encoder = any(gradient.any() for name, gradient in gradients.items() if name.startswith("task_encoder"))
    assert reaches_encoder == (assignment == "soft")


def test_a_refresh_changes_nothing_and_its_state_has_the_shapes_of_the_old_one():
    modes, survey = clustered("soft"), draws(40, CODE, seed=7)
    before = [value.clone() for value in (*modes.state(), *modes.parameters(), survey)]
    found, again = modes.refresh(survey, 3), modes.refresh(survey, 3)
    for value, old in zip((*modes.state(), *modes.parameters(), survey), before, strict=True):
        assert torch.equal(value, old)
    for new, same, old in zip(found.state, again.state, modes.state(), strict=True):
        assert torch.equal(new, same) and new.shape == old.shape and new.dtype == old.dtype
    assert torch.equal(found.labels, again.labels) and found.metrics == again.metrics
    assert all(not buffer.requires_grad for buffer in modes.state())


def test_state_is_single_precision_unless_the_learner_is_made_double():
    modes = Clustered(3, 4, 2, KMeans(2))
    assert all(buffer.dtype == torch.float32 for buffer in modes.state())
    assert all(value.dtype == torch.float32 for value in modes.refresh(clouds(5, 5).float(), 0).state)


def test_modes_with_a_state_are_told_from_those_without():
    assert isinstance(make(2, KMeans(2)), RefreshedModes) and isinstance(make(2, KMeans(2)), ModeDefinition)
    assert not isinstance(Codebook(2, 3), RefreshedModes) and not isinstance(Oracle(2, 3), RefreshedModes)


def test_the_first_refresh_gives_clusters_the_slots_in_order_with_the_codes_that_they_have():
    modes = make(4, KMeans(2))
    found = refresh(modes, clouds(10, 30))
    assert modes.in_use.tolist() == [1, 1, 0, 0] and found.labels.tolist() == [1] * 10 + [0] * 30
    assert not modes.origin.any() and modes.num_refreshes == 1
    torch.testing.assert_close(modes.log_weight[:2].exp(), torch.tensor([0.75, 0.25]).double())
    torch.testing.assert_close(modes.mean_code(), modes.table[:2].mean(0))
    assert found.metrics["num_modes"] == 2 and found.metrics["silhouette"] > 0.8
    assert "stability" not in found.metrics


def test_slots_keep_their_tasks_when_the_representations_move_and_the_clusters_change_names():
    modes = make(3, KMeans(2))
    first = refresh(modes, clouds(20, 30))
    assert first.labels.tolist() == [1] * 20 + [0] * 30
    modes.strategy = Told(*[0] * 20, *[1] * 30)
    moved = 0.5 * clouds(20, 30) + 2.0
    found = refresh(modes, moved)
    assert torch.equal(found.labels, first.labels) and not modes.origin.any()
    assert found.metrics["stability"] == pytest.approx(1.0)
    torch.testing.assert_close(modes.centre[0], moved[20:].mean(0))


def test_a_new_cluster_starts_at_the_code_of_the_slot_that_its_tasks_come_from():
    modes = make(4, Told(*[0] * 30, *[0] * 12, *[1] * 10))
    survey = clouds(30, 12, 10)
    refresh(modes, survey)
    codes = modes.codes(None).detach()
    modes.strategy = Told(*[0] * 30, *[1] * 12, *[2] * 10)
    found = refresh(modes, survey)
    assert modes.in_use.tolist() == [1, 1, 1, 0] and found.labels.tolist() == [0] * 30 + [2] * 12 + [1] * 10
    torch.testing.assert_close(modes.codes(None)[[0, 1]], codes[[0, 1]])
    torch.testing.assert_close(modes.codes(None)[2], codes[0])
    modes.table.data[2] += 1.0  # from there it goes its own way
    torch.testing.assert_close(modes.codes(None)[2], codes[0] + 1.0)


def test_a_slot_that_nobody_goes_on_as_retires_and_can_be_used_again():
    modes, survey = make(2, Told(*[0] * 30, *[1] * 12)), clouds(30, 12)
    refresh(modes, survey)
    second = modes.codes(None)[1].detach().clone()
    modes.strategy = Told(*[0] * 42)
    assert refresh(modes, survey).metrics["num_modes"] == 1
    assert modes.in_use.tolist() == [1, 0] and modes.log_gate(survey[0], UNKNOWN).tolist() == [0.0, -math.inf]
    modes.strategy = Told(*[0] * 30, *[1] * 12)
    refresh(modes, survey)
    torch.testing.assert_close(modes.codes(None)[1], modes.codes(None)[0])
    assert not torch.equal(modes.codes(None)[1], second)


def test_more_clusters_than_slots_keep_the_largest():
    modes = make(2, Told(*[0] * 5, *[1] * 20, *[2] * 10))
    found = refresh(modes, clouds(5, 20, 10))
    assert modes.in_use.tolist() == [1, 1] and found.metrics["num_modes"] == 2
    torch.testing.assert_close(modes.log_weight.exp(), torch.tensor([20 / 30, 10 / 30]).double())


@pytest.mark.parametrize("noise", [[-1] * 4, [-1] * 40])
def test_noise_makes_no_gate_and_belongs_to_the_nearest_cluster(noise):
    modes, survey = make(3, Told(*[0] * (40 - len(noise)), *noise)), clouds(40)
    found = refresh(modes, survey)
    assert found.metrics["num_modes"] == 1 and not found.labels.any()
    torch.testing.assert_close(
        modes.centre[0], survey[: 40 - len(noise)].mean(0) if len(noise) < 40 else survey.mean(0)
    )


def test_clusters_are_fitted_by_their_moments_with_some_of_the_pooled_variance():
    points, labels = clouds(4, 8).numpy(), np.repeat([0, 1], [4, 8])
    points[3], labels[3] = 1e3, NOISE
    weight, centre, scale = fit_clusters(points, labels)
    np.testing.assert_allclose(weight, [3 / 11, 8 / 11])
    groups = [points[labels == one] for one in (0, 1)]
    np.testing.assert_allclose(centre, [group.mean(0) for group in groups])
    squares = [((group - group.mean(0)) ** 2).sum(0) for group in groups]
    pooled = sum(squares) / 11
    np.testing.assert_allclose(scale**2, [(s + 10 * pooled) / (n + 10) for s, n in zip(squares, (3, 8), strict=True)])


def test_clusters_of_equal_points_have_a_width():
    points = np.repeat([[0.0, 5.0], [1.0, 6.0]], 6, axis=0)
    scale = fit_clusters(points, np.repeat([0, 1], 6)).scale
    assert (scale > 0).all() and (scale < 0.01).all()


def test_a_representation_that_is_constant_in_a_survey_and_moves_afterwards_says_nothing():
    survey, alive = clouds(30, 12), clouds(30, 12)
    survey[:, 1] = 0.0
    modes = make(3, KMeans(2))
    first = refresh(modes, survey)
    gates = [modes.log_gate(torch.tensor([4.0, dead]).double(), UNKNOWN) for dead in (0.0, 0.5)]
    torch.testing.assert_close(*gates)
    survey[:, 1] = 0.3
    assert torch.equal(refresh(modes, survey).labels, first.labels)
    assert torch.equal(refresh(modes, alive).labels, first.labels) and not modes.origin.any()


def test_the_survey_is_the_embedding_without_a_gradient():
    learner, tasks = make_learner("clustered, soft"), make_tasks()
    encoder = learner.task_encoder
    assert encoder is not None
    survey = learner.survey(tasks.support, tasks.mode, None)
    assert survey.shape == (3, CODE) and not survey.requires_grad
    for index, leaves in enumerate(zip(*tasks.support, strict=True)):
        torch.testing.assert_close(survey[index], encoder(*leaves).detach())


def test_a_survey_of_modes_without_a_state_is_refused():
    learner, tasks = make_learner("codebook, weights"), make_tasks()
    with pytest.raises(ValueError, match="modes=Codebook are not refreshed: there is nothing to survey"):
        learner.survey(tasks.support, tasks.mode, None)


def test_clustered_modes_find_kinds_of_tasks_without_labels():
    """Constant targets of two levels, and an encoder that nobody trained."""
    learner = make_learner("clustered, hard")
    learner.modes = Clustered(4, CODE, CODE, DirichletProcessMixture(4), "hard").double()
    tasks = many_tasks(60)
    survey = learner.survey(tasks.support, tasks.mode, None)
    found = refresh(learner.modes, survey)
    assert isinstance(learner, ModeConditionalBayesianMAML)
    assert [int(label) for label in found.labels[:4]] == [*found.labels[:2].tolist()] * 2
    assert found.labels[0] != found.labels[1]


def many_tasks(num: int):
    tasks = make_tasks()
    x = draws(num, 5, 2)
    mode = torch.arange(num) % 2
    y = (20.0 * mode[:, None, None] - 10.0) + 0.1 * draws(num, 5, 1, seed=1)
    mask = torch.ones(num, 5, dtype=torch.bool)
    return tasks._replace(support_x=x, support_y=y, support_mask=mask, mode=mode)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make(0, KMeans(1)), r"num_modes=0 must be at least 1"),
        (lambda: make(3, KMeans(4)), r"num_clusters=4 must lie in 1\.\.num_modes=3"),
        (lambda: make(3, KMeans(3), cast("Assignment", "firm")), r"assignment='firm' must be one of soft, hard"),
        (lambda: make(3, KMeans(3), trust=-1.0), r"trust=-1\.0 must be at least 0"),
        (lambda: make(9, KMeans(9)).refresh(clouds(8), 0), r"8 surveyed tasks are fewer than num_clusters=9"),
        (lambda: make(2, KMeans(2)).refresh(clouds(8) / 0, 0), r"surveyed task 0 is not finite"),
    ],
)
def test_bad_input_is_refused_with_the_numbers(build, message):
    config.update("jaxtyping_disable", True)  # as users run it: without the annotations' checks
    try:
        with pytest.raises(ValueError, match=message):
            build()
    finally:
        config.update("jaxtyping_disable", False)
