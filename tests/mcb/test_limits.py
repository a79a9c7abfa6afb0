"""The Bayes predictor: conjugate regression, a dense grid over all parameters, calibration, and the stored files."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from mcb import limits
from mcb.limits import NUM_REFERENCE_TASKS, REFERENCES, bayes_predict, load_reference, reference_tasks, save_reference
from mcb.randomness import fold_key
from mcb.tasks.regression import RegressionFamilies
from mcb.types import Task

SEED = fold_key(0, "test")
FIVE = RegressionFamilies.five_modes()


def rows_of(tasks: Task, rows: Tensor) -> Task:
    return Task(*(leaf[rows] for leaf in tasks))


def test_lines_equal_bayesian_linear_regression_with_a_flat_prior():
    source = RegressionFamilies(("linear",))
    tasks = source.sample(SEED, torch.arange(1))
    x = torch.tensor([-4.0, -2.0, 0.5, 2.0, 4.0]).double()
    noise = torch.tensor([0.2, -0.4, 0.1, 0.3, -0.1]).double()
    support_y = 1.2 * x - 0.8 + noise
    query_x = torch.tensor([-5.0, -1.0, 0.0, 3.0, 5.0]).double()
    query_y = 1.2 * query_x - 0.5
    tasks = tasks._replace(
        support_x=x[None, :, None], support_y=support_y[None, :, None],
        query_x=query_x[None, :, None], query_y=query_y[None, :, None],
    )  # fmt: skip
    design, query_design = (torch.stack([points, torch.ones_like(points)], dim=1) for points in (x, query_x))
    covariance = 0.3**2 * torch.linalg.inv(design.T @ design)
    mean = query_design @ torch.linalg.lstsq(design, support_y[:, None]).solution[:, 0]
    variance = 0.3**2 + (query_design @ covariance * query_design).sum(1)

    reference = bayes_predict(source, tasks)

    torch.testing.assert_close(reference.mean[0], mean, rtol=0, atol=1e-7)
    torch.testing.assert_close(
        reference.log_density[0], Normal(mean, variance.sqrt()).log_prob(query_y), rtol=0, atol=1e-7
    )


def grid(name: str) -> tuple[Tensor, ...]:
    """Midpoints of all parameters of a family, as the published table has them."""

    def axis(low: float, high: float, num: int) -> Tensor:
        return low + (high - low) * (torch.arange(num).double() + 0.5) / num

    wide, steep = axis(-3, 3, 100), axis(0.02, 0.15, 30)
    parameters = {
        "sinusoid": (axis(0.1, 5, 500), axis(0, math.pi, 500)),
        "linear": (axis(-3, 3, 800), axis(-3, 3, 800)),
        "quadratic": (torch.cat([-steep, steep]), wide, wide),
        "tanh": (wide, wide, wide),
        "absolute": (wide, wide, wide),
    }[name]
    return torch.meshgrid(*parameters, indexing="ij")


CURVES = {
    "sinusoid": lambda x, a, phase: a * torch.sin(x - phase),
    "linear": lambda x, a, b: a * x + b,
    "quadratic": lambda x, s, c, b: s * (x - c) ** 2 + b,
    "tanh": lambda x, a, c, b: a * torch.tanh(x - c) + b,
    "absolute": lambda x, a, c, b: a * (x - c).abs() + b,
}


def test_five_modes_equal_a_dense_grid_over_every_parameter():
    tasks = FIVE.sample(SEED, torch.tensor([23]))  # of tanh
    support_x, support_y, query_x, query_y = (
        leaf.flatten().double() for leaf in (tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y)
    )
    log_evidence, log_joint, moment = [], [], []
    for name in FIVE.families:
        parameters = grid(name)
        log_weight = torch.zeros_like(parameters[0])
        for x, y in zip(support_x, support_y, strict=True):
            log_weight += Normal(CURVES[name](x, *parameters), 0.3).log_prob(y)
        log_weight -= math.log(log_weight.numel())
        curves = [CURVES[name](x, *parameters) for x in query_x]
        log_evidence.append(log_weight.flatten().logsumexp(0))
        moment.append(torch.stack([(log_weight.exp() * curve).sum() for curve in curves]))
        densities = [Normal(curve, 0.3).log_prob(y) for curve, y in zip(curves, query_y, strict=True)]
        log_joint.append(torch.stack([(log_weight + density).flatten().logsumexp(0) for density in densities]))
    total = torch.stack(log_evidence).logsumexp(0)

    reference = bayes_predict(FIVE, tasks)

    torch.testing.assert_close(
        reference.log_mode[0].exp(), (torch.stack(log_evidence) - total).exp(), rtol=0, atol=5e-4
    )
    torch.testing.assert_close(reference.mean[0], torch.stack(moment).sum(0) / total.exp(), rtol=0, atol=2e-3)
    torch.testing.assert_close(reference.log_density[0], torch.stack(log_joint).logsumexp(0) - total, rtol=0, atol=2e-3)


def test_the_predictive_density_integrates_to_one_and_has_the_predictive_mean():
    source = REFERENCES["two-modes"]
    y = torch.linspace(-25, 25, 2001).double()
    x = torch.full((2, len(y), 1), 3.0)
    tasks = source.sample(SEED, torch.arange(2, 4))._replace(query_x=x, query_y=y[:, None].expand_as(x))
    reference = bayes_predict(source, tasks)
    density = reference.log_density.exp()
    torch.testing.assert_close(torch.trapezoid(density, y), torch.ones(2).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.trapezoid(density * y, y), reference.mean[:, 0], rtol=0, atol=1e-9)


def test_a_finer_lattice_changes_little():
    tasks = FIVE.sample(SEED, torch.arange(5))
    coarse, fine = (bayes_predict(FIVE, tasks, refinement) for refinement in (1, 2))
    assert (coarse.nll - fine.nll).abs().mean() < 5e-4
    assert (coarse.log_mode.exp() - fine.log_mode.exp()).abs().max() < 5e-4


def test_tasks_are_predicted_alike_in_any_batch(monkeypatch: pytest.MonkeyPatch):
    tasks = FIVE.sample(SEED, torch.arange(12))
    together = bayes_predict(FIVE, tasks)
    monkeypatch.setattr(limits, "_VALUES_PER_CHUNK", 1)
    alone = bayes_predict(FIVE, rows_of(tasks, torch.tensor([11, 3])))
    for whole, part in zip(together, alone, strict=True):
        torch.testing.assert_close(part, whole[[11, 3]], rtol=0, atol=1e-12)


def test_a_query_point_far_from_every_curve_has_a_finite_density():
    tasks = FIVE.sample(SEED, torch.arange(5))
    reference = bayes_predict(FIVE, tasks._replace(query_y=tasks.query_y + 1000.0))
    assert reference.log_density.isfinite().all()
    assert reference.log_density.max() < -1e5


def test_identification_is_calibrated():
    source = REFERENCES["two-modes"]
    reference = bayes_predict(source, source.sample(SEED, torch.arange(2000)))
    confidence = reference.log_mode.exp().amax(1)
    deviation = (confidence * (1 - confidence)).sum().sqrt()
    assert abs(reference.correct.double().sum() - confidence.sum()) < 5 * deviation  # error rate 6e-7


@pytest.mark.parametrize(
    ("source", "refinement", "message"),
    [
        (RegressionFamilies(("linear",), noise_scale=0.0), 1, r"noise_scale=0\.0"),
        (RegressionFamilies(("linear",)), 0, "refinement=0"),
    ],
)
def test_settings_out_of_range_are_named(source: RegressionFamilies, refinement: int, message: str):
    with pytest.raises(ValueError, match=message):
        bayes_predict(source, source.sample(0, torch.arange(2)), refinement)


def test_masked_points_are_refused():
    tasks = FIVE.sample(0, torch.arange(2))
    with pytest.raises(ValueError, match="masked"):
        bayes_predict(FIVE, tasks._replace(query_mask=~tasks.query_mask))


# NLL, MSE and mode accuracy from an independent sampler, all parameters drawn from the prior, on 12,000 other tasks.
PUBLISHED = {
    "two-modes": (0.437, 0.178, 0.994),
    "three-modes": (0.525, 0.277, 0.93),
    "five-modes": (0.606, 0.592, 0.795),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_stored_references_give_the_published_limits(name: str):
    reference = load_reference(name)
    nll, mse, accuracy = PUBLISHED[name]
    num_tasks = len(reference.nll)
    assert num_tasks == NUM_REFERENCE_TASKS[name]
    standard_error = 1.3 / num_tasks**0.5  # of tasks here and of three times as many there
    assert abs(reference.nll.mean() - nll) < 4 * standard_error * reference.nll.std()
    assert abs(reference.squared_error.mean() - mse) < 4 * standard_error * reference.squared_error.std()
    assert abs(reference.correct.float().mean() - accuracy) < 4 * standard_error * 0.5


@pytest.mark.parametrize("name", REFERENCES)
def test_stored_references_are_what_the_predictor_says(name: str):
    source, stored = REFERENCES[name], load_reference(name)
    rows = torch.tensor([0, 1, 2, 3, 4, 3999, len(stored.nll) - 1])
    expected = bayes_predict(source, rows_of(reference_tasks(source, len(stored.nll)), rows))
    for key in ("mean", "log_density", "log_mode", "query_y", "mode"):
        torch.testing.assert_close(getattr(stored, key)[rows], getattr(expected, key), check_dtype=False)


def test_a_reference_survives_saving(tmp_path: Path):
    done: list[int] = []
    path = save_reference("two-modes", tmp_path / "new", num_tasks=150, on_progress=done.append)
    assert path == tmp_path / "new" / "two-modes.npz"
    assert done == [100, 150]
    for loaded, stored in zip(load_reference("two-modes", path.parent), load_reference("two-modes"), strict=True):
        torch.testing.assert_close(loaded, stored[:150])


def test_a_reference_for_other_tasks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_reference("two-modes", tmp_path, num_tasks=10)
    monkeypatch.setitem(REFERENCES, "two-modes", RegressionFamilies(("sinusoid", "linear"), noise_scale=0.31))
    with pytest.raises(ValueError, match="other tasks, of which task 0 is the first: make it again with `mcb limits"):
        load_reference("two-modes", tmp_path)


def test_an_unreadable_reference_is_refused(tmp_path: Path):
    whole = save_reference("two-modes", tmp_path, num_tasks=10).read_bytes()
    with pytest.raises(ValueError, match="cannot be read"):
        load_reference("three-modes", tmp_path)
    for content in (b"", b"not an archive", whole[:-100], whole[:200] + bytes(50) + whole[250:]):
        (tmp_path / "two-modes.npz").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            load_reference("two-modes", tmp_path)


@pytest.mark.parametrize("function", [load_reference, lambda name: save_reference(name, Path())])
def test_an_unknown_reference_is_named(function):
    with pytest.raises(ValueError, match="name='six-modes' must be one of"):
        function("six-modes")
