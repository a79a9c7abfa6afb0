"""The task generator: the published families, and tasks that are pure functions of seed and index."""

import math

import pytest
import torch
from torch import Tensor

from mcb.randomness import fold_key
from mcb.tasks.regression import FAMILIES, RegressionFamilies

FIVE = RegressionFamilies.five_modes()
SEED = fold_key(0, "test")

# PROTOCOLS section 1: the ends of every parameter's range (linear parameter first) and the curve.
TABLE = {
    "sinusoid": ([(0.1, 5), (0, math.pi)], lambda x, amplitude, phase: amplitude * torch.sin(x - phase)),
    "linear": ([(-3, 3), (-3, 3)], lambda x, b, a: a * x + b),
    "quadratic": ([(-3, 3), (-0.15, 0.15), (-3, 3)], lambda x, b, s, c: s * (x - c) ** 2 + b),
    "tanh": ([(-3, 3), (-3, 3), (-3, 3)], lambda x, b, a, c: a * torch.tanh(x - c) + b),
    "absolute": ([(-3, 3), (-3, 3), (-3, 3)], lambda x, b, a, c: a * abs(x - c) + b),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_curves_at_the_ends_of_every_range(name: str):
    ranges, curve = TABLE[name]
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * len(ranges))
    x = torch.linspace(-5, 5, 11).double()
    expected = [curve(x, *(ends[int(level)] for ends, level in zip(ranges, corner, strict=True))) for corner in corners]
    actual = FAMILIES[name].curve(corners, x.expand(len(corners), -1))
    torch.testing.assert_close(actual, torch.stack(expected))


def curves_of(mode: int, *x: float, num: int = 5000) -> tuple[Tensor, ...]:
    """Truth of `num` tasks of family `mode` at given points, float64."""
    indices = torch.arange(num) * len(FIVE.families) + mode
    return FIVE.truth(SEED, indices, torch.tensor(x).double().expand(num, -1)).unbind(1)


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    levels = ((values - low) / (high - low)).sort().values
    assert levels[0] > -1e-9
    assert levels[-1] < 1 + 1e-9
    ranks = (torch.arange(len(levels)).double() + 0.5) / len(levels)
    assert (levels - ranks).abs().max() * len(levels) ** 0.5 < 2.7  # Kolmogorov & Smirnov, error rate 1e-6


def test_sinusoids_have_uniform_amplitude_and_phase():
    at_zero, at_quarter = curves_of(0, 0, math.pi / 2)
    assert_uniform(torch.hypot(at_zero, at_quarter), 0.1, 5)
    assert_uniform(torch.atan2(-at_zero, at_quarter), 0, math.pi)


def test_lines_have_uniform_slope_and_intercept():
    at_zero, at_one = curves_of(1, 0, 1)
    assert_uniform(at_zero, -3, 3)
    assert_uniform(at_one - at_zero, -3, 3)


def test_quadratics_have_uniform_curvature_of_either_sign_and_uniform_vertex():
    left, middle, right = curves_of(2, -1, 0, 1)
    curvature = (left + right) / 2 - middle
    centre = (left - right) / (4 * curvature)
    assert_uniform(curvature.abs(), 0.02, 0.15)
    assert abs((curvature > 0).double().mean() - 0.5) < 5 * 0.5 / len(curvature) ** 0.5
    assert_uniform(centre, -3, 3)
    assert_uniform(middle - curvature * centre**2, -3, 3)


def test_tanhs_have_uniform_height_and_offset():
    left, right = curves_of(3, -40, 40)
    assert_uniform((left + right) / 2, -3, 3)
    assert_uniform((right - left) / 2, -3, 3)


def test_absolutes_have_uniform_slope_and_vertex():
    left, right, further = curves_of(4, -5, 5, 6)
    scale = further - right
    centre = (left - right) / (2 * scale)
    assert_uniform(scale, -3, 3)
    assert_uniform(centre, -3, 3)
    assert_uniform(right - scale * (5 - centre), -3, 3)


def test_points_are_the_truth_plus_noise_at_uniform_inputs():
    indices = torch.arange(8000)
    tasks = FIVE.sample(SEED, indices)
    for x, y in ((tasks.support_x, tasks.support_y), (tasks.query_x, tasks.query_y)):
        residual = y[..., 0].double() - FIVE.truth(SEED, indices, x[..., 0].double())
        assert_uniform(x.flatten().double(), -5, 5)
        assert_uniform(torch.special.ndtr(residual.flatten() / 0.3), 0, 1)
        assert abs(residual.std() / 0.3 - 1) < 5 / (2 * residual.numel()) ** 0.5


def test_without_noise_points_lie_on_the_curve():
    source = RegressionFamilies(("sinusoid", "absolute"), noise_scale=0.0)
    indices = torch.arange(10)
    tasks = source.sample(SEED, indices)
    torch.testing.assert_close(tasks.query_y[..., 0], source.truth(SEED, indices, tasks.query_x[..., 0]))


def test_any_batching_gives_the_same_tasks():
    together = FIVE.sample(SEED, torch.arange(60))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for rows in order.split(7):
        for part, whole in zip(FIVE.sample(SEED, rows), together, strict=True):
            assert torch.equal(part, whole[rows])


def test_seeds_and_indices_give_different_tasks():
    first, second = (FIVE.sample(seed, torch.arange(50)) for seed in (SEED, SEED + 1))
    assert len(first.support_x.unique()) == first.support_x.numel()
    assert not torch.isin(first.support_x, second.support_x).any()


@pytest.mark.parametrize("start", [0, 3, 250])
def test_a_meta_batch_divisible_by_the_number_of_families_is_balanced(start: int):
    mode = FIVE.sample(SEED, torch.arange(start, start + 125)).mode
    assert mode.bincount().tolist() == [25] * 5


def test_shapes_dtypes_and_names():
    tasks = RegressionFamilies.three_modes(num_support=4, num_query=7).sample(SEED, torch.arange(6))
    assert tasks.support_x.shape == tasks.support_y.shape == (6, 4, 1)
    assert tasks.query_x.shape == tasks.query_y.shape == (6, 7, 1)
    assert tasks.support_mask.shape == (6, 4)
    assert tasks.query_mask.all()
    assert tasks.support_y.dtype == tasks.query_x.dtype == torch.float32
    assert tasks.mode.tolist() == [0, 1, 2, 0, 1, 2]
    assert RegressionFamilies.two_modes().mode_names == ("sinusoid", "linear")
    assert FIVE.mode_names == tuple(TABLE)
    assert (FIVE.x_size, FIVE.y_size) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"families": ("cubic",)}, "cubic"),
        ({"families": ()}, "at least one"),
        ({"families": ("linear", "linear")}, "each once"),
        ({"families": ("linear",), "num_support": 0}, "num_support=0"),
        ({"families": ("linear",), "num_query": -1}, "num_query=-1"),
        ({"families": ("linear",), "noise_scale": -0.1}, r"noise_scale=-0\.1"),
        ({"families": ("linear",), "noise_scale": math.nan}, "noise_scale=nan"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        RegressionFamilies(**settings)
