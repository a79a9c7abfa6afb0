"""Quantiles of mixtures against bisection of exactly summed distribution functions, one mixture after the other."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from mcb.predictive import GaussianMixture

NUM_TASKS, NUM_COMPONENTS, NUM_QUERY = 3, 96, 8
LEVELS = (1e-9, 1e-3, 0.05, 0.25, 0.5, 0.75, 0.95, 1 - 1e-6)


def broad(generator: torch.Generator) -> GaussianMixture:
    """As the predictive of a few points: all weights count, scales are alike."""
    return mixture(generator, spread_of_weights=2.0, lowest_scale=-1.0)


def spiky(generator: torch.Generator) -> GaussianMixture:
    """As that of many points, and worse: few weights count, narrow components with gaps between them."""
    return mixture(generator, spread_of_weights=12.0, lowest_scale=-9.0)


def mixture(generator: torch.Generator, spread_of_weights: float, lowest_scale: float) -> GaussianMixture:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (NUM_TASKS, NUM_COMPONENTS, NUM_QUERY, 1)
    log_weights = (spread_of_weights * draw(*shape[:2])).log_softmax(-1)
    log_scale = lowest_scale * torch.rand(shape, generator=generator, dtype=torch.float64)
    return GaussianMixture(log_weights, 3 * draw(*shape), log_scale)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many components every look at the distribution function had."""
    looked_at, erfc = [], torch.erfc

    def counted(u: Tensor) -> Tensor:
        looked_at.append(len(u))
        return erfc(u)

    monkeypatch.setattr(torch, "erfc", counted)
    return looked_at


def lower_quantile(weights: Sequence[float], mean: Sequence[float], scale: Sequence[float], level: float) -> float:
    """By bisection in Python's own numbers, until no number lies between the ends."""
    components = list(zip(weights, mean, scale, strict=True))

    def below(y: float) -> float:
        return math.fsum(0.5 * w * math.erfc((m - y) / s / math.sqrt(2)) for w, m, s in components)

    low, high = min(mean) - 40 * max(scale), max(mean) + 40 * max(scale)
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if below(middle) < level else (low, middle)
    return high


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("make", [broad, spiky])
@pytest.mark.parametrize(("dtype", "precision"), [(torch.float64, 1e-12), (torch.float32, 3e-5)])
def test_a_quantile_is_the_brute_force_one(
    make: Callable[[torch.Generator], GaussianMixture], level: float, dtype: torch.dtype, precision: float
):
    given = GaussianMixture(*(leaf.to(dtype) for leaf in make(torch.Generator().manual_seed(3))))
    found = given.quantile(level).double()
    sign, tail = (1.0, level) if level <= 0.5 else (-1.0, 1 - level)
    for task, query in ((0, 0), (1, 3), (2, 7)):
        weights = given.log_weights[task].double().exp().tolist()
        mean = (sign * given.mean[task, :, query, 0].double()).tolist()
        scale = given.log_scale[task, :, query, 0].double().exp().tolist()
        low, high = (lower_quantile(weights, mean, scale, tail * (1 + by)) for by in (-precision, precision))
        resolution = 4 * torch.finfo(dtype).eps * max(abs(low), abs(high))
        assert low - resolution <= sign * found[task, query, 0].item() <= high + resolution


@pytest.mark.parametrize("make", [broad, spiky])
def test_an_interval_is_its_two_quantiles_of_each_task_alone(make: Callable[[torch.Generator], GaussianMixture]):
    given = make(torch.Generator().manual_seed(4))
    low, high = given.interval(0.9)
    for task in range(NUM_TASKS):
        alone = GaussianMixture(*(leaf[task] for leaf in given))
        torch.testing.assert_close(low[task], alone.quantile(0.05), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(high[task], alone.quantile(0.95), rtol=1e-9, atol=1e-9)


def test_many_tasks_are_cut_into_pieces_without_a_difference(monkeypatch: pytest.MonkeyPatch):
    given = broad(torch.Generator().manual_seed(5))
    whole = given.interval(0.8)
    monkeypatch.setattr("mcb.predictive._ENTRIES_AT_ONCE", 2 * NUM_COMPONENTS * NUM_QUERY)
    torch.testing.assert_close(given.interval(0.8), whole, rtol=1e-12, atol=1e-12)


def test_what_is_not_a_number_ends_and_leaves_the_others_as_they_are(looks: list[int]):
    given = broad(torch.Generator().manual_seed(6))
    broken = given._replace(mean=given.mean.clone())
    broken.mean[1, 5, 2] = math.nan
    expected, found = given.quantile(0.3), broken.quantile(0.3)
    assert found[1, 2].isnan().all() and found.isnan().sum() == 1
    kept = found.isfinite()
    torch.testing.assert_close(found[kept], expected[kept])
    assert len(looks) < 30


def test_scales_of_all_magnitudes_take_no_more_looks_than_halving_the_bracket_would(looks: list[int]):
    generator = torch.Generator().manual_seed(0)
    shape = (200, 5, 20, 1)
    weights = (10 * torch.randn(shape[:2], generator=generator, dtype=torch.float64)).log_softmax(-1)
    mean = 10 ** (3 * torch.randn(shape, generator=generator, dtype=torch.float64))
    log_scale = 15 * torch.randn(shape, generator=generator, dtype=torch.float64)
    for level in (1e-9, 0.05, 0.5, 0.95):
        looks.clear()
        GaussianMixture(weights, mean, log_scale).quantile(level)
        assert len(looks) < 128


def test_components_far_below_the_rounding_of_the_level_are_not_looked_at(looks: list[int]):
    given = broad(torch.Generator().manual_seed(7))
    log_weights = torch.cat([given.log_weights[:, :10].log_softmax(-1), torch.full((NUM_TASKS, 86), -60.0)], 1).double()
    few = given._replace(log_weights=log_weights)
    alone = GaussianMixture(log_weights[:, :10], given.mean[:, :10], given.log_scale[:, :10])
    torch.testing.assert_close(few.interval(0.9), alone.interval(0.9), rtol=1e-12, atol=1e-12)
    assert set(looks) == {10}


@pytest.mark.parametrize("shape", [(0, 4, 3, 1), (2, 4, 0, 1)])
def test_no_tasks_or_no_query_points_have_no_quantiles(shape: tuple[int, ...]):
    empty = GaussianMixture(torch.zeros(shape[:2]).log_softmax(-1), torch.zeros(shape), torch.zeros(shape))
    assert empty.quantile(0.5).shape == (shape[0], *shape[2:])


def test_one_component_in_double_precision_has_its_quantile_to_that_precision():
    zero = torch.zeros(1, dtype=torch.float64)
    normal = GaussianMixture(zero, zero.view(1, 1, 1), zero.view(1, 1, 1))
    for level in (1e-46, 0.025, 0.5, 0.9):
        expected = torch.special.ndtri(torch.tensor(level, dtype=torch.float64))
        torch.testing.assert_close(normal.quantile(level)[0, 0], expected, rtol=1e-13, atol=1e-13)
