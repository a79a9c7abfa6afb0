"""The predictor on small learners: the same numbers as the learner's own, units, shapes, and what it refuses."""

import numpy as np
import pytest
import torch
from small_learners import make_learner, make_tasks

from mcb.predictive import CategoricalMixture, GaussianMixture
from mcb.predictor import Predictor
from mcb.randomness import normals, uniforms
from mcb.serving import ServedLearner
from mcb.types import Task
from mcb.units import Units

X, Y = [[0.1, 1.0], [0.5, -1.0], [-0.7, 0.2]], [0.3, -0.2, 1.1]
NEW = [[0.0, 0.0], [1.0, 1.0]]
UNITS = Units(
    ("small", "large"),
    torch.tensor([[0.0, 0.0], [30.0, -4.0]]).double(),
    torch.tensor([[1.0, 1.0], [10.0, 2.0]]).double(),
    torch.tensor([[0.0], [500.0]]).double(),
    torch.tensor([[1.0], [50.0]]).double(),
)


def make_predictor(
    modes: str = "codebook, weights", inference: str = "conjugate", kind: str = "mlp", **given
) -> Predictor:
    return Predictor(make_learner(modes, inference, kind).float(), 2, 1, **given)


def draw(num_support: int, num_tasks: int) -> Task:
    """Tasks with noisy targets near zero, the same whoever asks."""
    rows = torch.arange(num_tasks)
    x = uniforms(1, rows, 2 * num_support).view(num_tasks, num_support, 2).float()
    y = normals(2, rows, num_support)[..., None].float()
    mask = torch.ones(num_tasks, num_support, dtype=torch.bool)
    return Task(x, y, mask, x, y, mask, rows % 2)


@pytest.mark.parametrize(
    ("modes", "inference", "kind"),
    [
        ("codebook, weights", "conjugate", "mlp"),
        ("codebook, weights", "conjugate", "bottleneck"),
        ("adaptive codebook", "conjugate", "mlp"),
        ("codebook, both", "conjugate", "mlp"),
        ("embedding", "conjugate", "mlp"),
        ("codebook, weights", "svgd", "mlp"),
    ],
)
def test_a_prediction_is_the_learners_own(modes, inference, kind):
    predictor = make_predictor(modes, inference, kind)
    post = predictor.adapt(X, Y)
    prediction = post.predict(NEW)
    learner = make_learner(modes, inference, kind).float()
    own = learner.adapt(torch.tensor(X), torch.tensor(Y)[:, None])
    mixture = own.predict(torch.tensor(NEW))
    assert isinstance(mixture, GaussianMixture)
    np.testing.assert_allclose(prediction.mean, mixture.expectation()[:, 0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prediction.scale**2, mixture.variance()[:, 0].numpy(), rtol=1e-4)
    np.testing.assert_allclose(post.responsibilities, own.responsibilities.numpy(), rtol=1e-5)
    assert post.log_evidence == pytest.approx(own.tasks.log_marginal.item(), rel=1e-5)
    assert post.log_evidence_per_point == pytest.approx(post.log_evidence / 3)
    lower, upper = prediction.interval(0.9)
    np.testing.assert_allclose([lower, upper], [end[:, 0].numpy() for end in mixture.interval(0.9)], rtol=1e-4)
    np.testing.assert_allclose(
        prediction.log_density([0.1, 0.4]), mixture.log_density(torch.tensor([[0.1], [0.4]])).numpy(), rtol=1e-4
    )


@pytest.mark.parametrize("modes", ["codebook, weights", "embedding"])
@pytest.mark.parametrize("units", [None, UNITS])
def test_many_ragged_tasks_have_the_results_of_each_alone(modes, units, monkeypatch):
    monkeypatch.setattr("mcb.adaptation._AT_ONCE", 4)  # tasks in several batches
    predictor = make_predictor(modes, "svgd", units=units, family_names=("small", "large") if units else ())
    generator = np.random.default_rng(0)
    sizes = (1, 4, 2, 4, 3, 1)
    xs, ys = [generator.normal(size=(s, 2)) for s in sizes], [generator.normal(size=s) for s in sizes]
    new = [generator.normal(size=(s, 2)) for s in reversed(sizes)]
    many = predictor.adapt_many(xs, ys)
    together = many.predict(new)
    assert together.mean.shape == (6, 4) and many.responsibilities.shape == (6, predictor.num_modes)
    for task, (x, y, x_new) in enumerate(zip(xs, ys, new, strict=True)):
        alone = predictor.adapt(x, y)
        assert many.log_evidence[task] == pytest.approx(alone.log_evidence, rel=1e-4)
        np.testing.assert_allclose(many[task].responsibilities, alone.responsibilities, rtol=1e-4)
        for post in (alone, many[task]):
            prediction = post.predict(x_new)
            np.testing.assert_allclose(together.mean[task, : len(x_new)], prediction.mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                together.interval(0.8)[1][task, : len(x_new)], prediction.interval(0.8)[1], rtol=1e-3, atol=1e-4
            )
        assert np.isnan(together.mean[task, len(x_new) :]).all()


def test_values_of_a_named_family_are_converted_by_its_moments():
    plain, predictor = make_predictor(), make_predictor(units=UNITS, family_names=UNITS.families)
    x, y, new = np.array(X), np.array(Y), np.array(NEW)
    inside = plain.adapt(x, y).predict(new)
    post = predictor.adapt([30, -4] + [10, 2] * x, 500 + 50 * y, family="large")
    outside = post.predict([30, -4] + [10, 2] * new)
    np.testing.assert_allclose(outside.mean, 500 + 50 * inside.mean, rtol=1e-5)
    np.testing.assert_allclose(outside.scale, 50 * inside.scale, rtol=1e-4)
    np.testing.assert_allclose(outside.interval(0.9)[0], 500 + 50 * inside.interval(0.9)[0], rtol=1e-5)
    np.testing.assert_allclose(
        outside.log_density(500 + 50 * np.array([0.3, 0.1])), inside.log_density([0.3, 0.1]) - np.log(50), rtol=1e-4
    )
    assert post.log_evidence == pytest.approx(plain.adapt(x, y).log_evidence - 3 * np.log(50), rel=1e-5)
    assert post.families == {"small": 0, "large": 1}


def test_without_a_name_families_are_weighed_by_bayes_rule():
    predictor = make_predictor(units=UNITS, family_names=UNITS.families)
    x, y = 3 * np.array(X) + [2, -1], 2 * np.array(Y)
    named = [predictor.adapt(x, y, family=name) for name in UNITS.families]
    z = (x[None] - UNITS.x_mean.numpy()[:, None]) / UNITS.x_scale.numpy()[:, None]
    of_inputs = (-0.5 * z**2 - np.log(UNITS.x_scale.numpy()[:, None]) - 0.5 * np.log(2 * np.pi)).sum((1, 2))
    joint = np.array([post.log_evidence for post in named]) + of_inputs
    weights = np.exp(joint - np.logaddexp.reduce(joint))
    post = predictor.adapt(x, y)
    assert post.families is not None
    np.testing.assert_allclose(list(post.families.values()), weights, rtol=1e-5)
    means = np.stack([one.predict(NEW).mean for one in named])
    np.testing.assert_allclose(post.predict(NEW).mean, weights @ means, rtol=1e-5)
    assert post.log_evidence == pytest.approx(np.logaddexp.reduce(joint) - np.logaddexp.reduce(of_inputs), rel=1e-6)
    np.testing.assert_allclose(post.responsibilities, weights @ [one.responsibilities for one in named], rtol=1e-5)


def test_an_input_that_was_not_measured_is_its_familys_mean():
    predictor = make_predictor(units=UNITS, family_names=UNITS.families)
    missing, mean = ([[35.0, second], [20.0, second]] for second in (np.nan, -4.0))
    posts = [predictor.adapt(x, [500, 510], family="large") for x in (missing, mean)]
    assert posts[0].log_evidence == posts[1].log_evidence
    np.testing.assert_array_equal(posts[0].predict(missing).mean, posts[1].predict(mean).mean)


def test_percentiles_of_training_like_tasks_are_uniform_for_every_number_of_points():
    predictor = make_predictor(draw=draw, family_names=("a", "b"))
    for num_support in (1, 4):
        fresh = draw(num_support, 4000)
        xs, ys = fresh.support_x[2000:], fresh.support_y[2000:]  # the reference has the first 1999
        percentile = predictor.adapt_many(xs, ys).evidence_percentile
        assert percentile is not None
        assert percentile.min() >= 100 / 2000 and percentile.max() <= 100
        # Kolmogorov-Smirnov between two samples of some 2,000: below 1.95 sqrt(2 / 2000) with probability 0.999
        distance = np.abs(np.sort(percentile) / 100 - np.arange(1, 2001) / 2000).max()
        assert distance < 0.0617


def test_a_task_unlike_all_others_is_unusual_and_the_reference_is_remembered():
    calls = []

    def counted(num_support: int, num_tasks: int) -> Task:
        calls.append(num_support)
        return draw(num_support, num_tasks)

    predictor = make_predictor(draw=counted)
    far, near = predictor.adapt(X, [90.0, -80.0, 70.0]), predictor.adapt(X, [0.1, -0.1, 0.2])
    assert far.is_unusual is True and near.is_unusual is False
    assert far.evidence_percentile == pytest.approx(100 / 2000)
    assert calls == [3]
    np.testing.assert_array_equal(predictor.adapt_many([X, X], [Y, [90.0, -80.0, 70.0]]).is_unusual, [False, True])


def test_modes_are_named_after_the_families_that_they_take():
    predictor = make_predictor(draw=draw, family_names=("a", "b"))
    assert [name.split()[1] for name in predictor.mode_names] == ["0", "1", "2"]
    families = predictor.adapt(X, Y).families
    assert families is not None and sum(families.values()) == pytest.approx(1)
    assert make_predictor().mode_names == ("mode 0", "mode 1", "mode 2")
    assert make_predictor().adapt(X, Y).families is None and make_predictor().adapt(X, Y).is_unusual is None


def test_modes_that_must_be_told_take_the_familys_name():
    predictor = make_predictor("oracle", family_names=("a", "b"))
    assert predictor.adapt(X, Y, family="b").responsibilities.tolist() == [0, 1]
    with pytest.raises(ValueError, match="has to be told a task's family: give one of a, b"):
        predictor.adapt(X, Y)
    with pytest.raises(ValueError, match="family='c' is unknown: there are a, b"):
        predictor.adapt(X, Y, family="c")
    many = predictor.adapt_many([X, X], [Y, Y], family=["a", "b"])
    assert many.responsibilities.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="there are 1 families for 2 tasks"):
        predictor.adapt_many([X, X], [Y, Y], family=["a"])


def test_classes_have_probabilities():
    learner = make_learner("codebook, both", "gradient", "classes").float()
    predictor, task = Predictor(learner, 2, 4), make_tasks("classes")
    x, y = task.support_x[0].float(), task.support_y[0]
    prediction = predictor.adapt(x, y).predict(task.query_x[0])
    expected = learner.adapt(x, y).predict(task.query_x[0].float())
    assert isinstance(expected, CategoricalMixture)
    np.testing.assert_allclose(prediction.probabilities, expected.probabilities().numpy(), rtol=1e-5)
    np.testing.assert_allclose(
        prediction.log_density([0, 1, 2, 3]), expected.log_density(torch.arange(4)).numpy(), rtol=1e-4
    )
    with pytest.raises(ValueError, match="predicts classes and has no interval: read probabilities"):
        prediction.interval(0.9)
    with pytest.raises(ValueError, match=r"y\[1\] is 4.0: a class must be an integer in 0..3"):
        predictor.adapt(x[:2], [0, 4])


def test_lists_arrays_and_tensors_are_taken_alike_and_not_changed():
    predictor = make_predictor()
    given = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    evidences = {predictor.adapt(x, Y).log_evidence for x in (X, np.array(X), given, given.tolist())}
    assert len(evidences) == 1
    assert predictor.adapt(X, np.array(Y)[:, None]).log_evidence in evidences
    np.testing.assert_array_equal(given.detach().numpy(), X)
    read_only = np.broadcast_to(np.array(X[:1]), (2, 3, 2))
    assert predictor.adapt_many(read_only, [Y, Y]).predict(read_only).mean.shape == (2, 3)


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        ([[1.0, 2.0, 3.0]], [1.0], r"x of shape (1, 3) must be (points, 2)"),
        ([1.0, 2.0], [1.0, 2.0], r"x of shape (2,) must be (points, 2)"),
        (X, [1.0], r"x has 3 points and y has 1: give one target for each point"),
        (np.zeros((0, 2)), [], r"x has no point: a support set needs at least one"),
        ([[1.0, np.nan]], [1.0], r"x[0][1] is nan: every value must be a finite number"),
        ([[1.0, 2.0]], [np.inf], r"y[0] is inf: every value must be a finite number"),
        ([[1.0, 1e39]], [1.0], r"x[0][1] is 1e+39: every value must be a finite number"),
        ([[1.0, 2.0]], [[1.0, 2.0]], r"y of shape (1, 2) must be (points, 1) or (points,)"),
        ([["a", "b"]], [1.0], r"x is no array of numbers"),
        ([[1.0, 2.0], [1.0]], [1.0, 2.0], r"x is no array of numbers"),
    ],
)
def test_a_support_set_that_does_not_fit_is_refused_in_one_line(x, y, sentence):
    with pytest.raises(ValueError) as refusal:
        make_predictor().adapt(x, y)
    assert str(refusal.value).startswith(sentence) and "\n" not in str(refusal.value)


def test_many_tasks_that_do_not_fit_are_refused_by_name():
    predictor = make_predictor()
    with pytest.raises(ValueError, match=r"^y\[1\]\[2\] is nan"):
        predictor.adapt_many([X, X], [Y, [1.0, 2.0, np.nan]])
    with pytest.raises(ValueError, match="x of 1 tasks and y of 2"):
        predictor.adapt_many([X], [Y, Y])
    many = predictor.adapt_many([X, X], [Y, Y])
    with pytest.raises(ValueError, match="query points of 1 tasks, but 2 were adapted to"):
        many.predict([NEW])
    with pytest.raises(ValueError, match="no query point of task 1"):
        many.predict([NEW, np.zeros((0, 2))])
    with pytest.raises(IndexError):
        many[2]
    with pytest.raises(ValueError, match=r"predicts numbers and has no probabilities"):
        many.predict([NEW, NEW]).probabilities  # noqa: B018
    with pytest.raises(ValueError, match="finds a task's family itself"):
        predictor.adapt(X, Y, family="sinusoid")


def test_values_too_far_from_training_are_refused():
    zero, one = torch.zeros(1, 2).double(), torch.ones(1, 1).double()
    tiny = Units(("one",), zero, zero + 1e-30, zero[:, :1], one)
    predictor = make_predictor(units=tiny, family_names=("one",))
    with pytest.raises(ValueError, match="x lies too far from all that this model was trained on: check its units"):
        predictor.adapt([[1e10, 1.0]], [1.0])


class Enough(Exception):
    """Seen what was to be seen, before it is computed."""


def test_large_support_sets_are_adapted_to_a_few_at_once(monkeypatch):
    sizes: list[int] = []

    def adapt_tasks(self, support, *given):
        sizes.append(len(support.mask))
        raise Enough

    monkeypatch.setattr(ServedLearner, "adapt_tasks", adapt_tasks)
    predictor = make_predictor(draw=draw)
    assert predictor.reference is not None
    x, y = np.zeros((12, 500, 2)), np.zeros((12, 500))
    with pytest.raises(Enough):
        predictor.adapt_many(x, y)
    with pytest.raises(Enough):
        predictor.reference.evidences(500)
    assert sizes == [256 * 64**2 // 500**2, 250 * 64**2 // 500**2]


def test_families_are_unknown_where_no_task_of_as_many_points_is_at_hand():
    predictor = make_predictor(family_names=("small", "large"), draw=lambda num_support, num_tasks: None)
    assert predictor.adapt(X, Y).families is None
