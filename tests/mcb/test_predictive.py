"""Predictive mixtures against closed forms, numerical integration and torch.distributions."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from mcb.predictive import CategoricalMixture, GaussianMixture

NUM_TASKS, NUM_COMPONENTS, NUM_QUERY, NUM_OUTPUTS = 3, 4, 5, 2


def make_mixture(num_outputs: int = NUM_OUTPUTS, seed: int = 0) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    shape = (NUM_TASKS, NUM_COMPONENTS, NUM_QUERY, num_outputs)
    return GaussianMixture(
        log_weights=torch.randn(shape[:2], generator=generator, dtype=torch.float64).log_softmax(-1),
        mean=2 * torch.randn(shape, generator=generator, dtype=torch.float64),
        log_scale=0.5 * torch.randn(shape, generator=generator, dtype=torch.float64),
    )


def make_targets(num_outputs: int = NUM_OUTPUTS) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.randn(NUM_TASKS, NUM_QUERY, num_outputs, generator=generator, dtype=torch.float64)


def as_distribution(mixture: GaussianMixture) -> MixtureSameFamily:
    """The same mixture in torch.distributions: batch (T, Q), components last, outputs independent inside one."""
    mean, scale = (leaf.transpose(1, 2) for leaf in (mixture.mean, mixture.log_scale.exp()))
    weights = Categorical(logits=mixture.log_weights[:, None].expand(mean.shape[:3]))
    return MixtureSameFamily(weights, Independent(Normal(mean, scale), 1))


def test_log_density_and_moments_are_those_of_torch_distributions():
    mixture, y = make_mixture(), make_targets()
    expected = as_distribution(mixture)
    torch.testing.assert_close(mixture.log_density(y), expected.log_prob(y))
    torch.testing.assert_close(mixture.expectation(), expected.mean)
    torch.testing.assert_close(mixture.variance(), expected.variance)


def test_one_component_is_a_normal():
    mixture, y = make_mixture(num_outputs=1), make_targets(num_outputs=1)
    single = GaussianMixture(torch.zeros(NUM_TASKS, 1).double(), mixture.mean[:, :1], mixture.log_scale[:, :1])
    expected = Normal(single.mean[:, 0], single.log_scale[:, 0].exp())
    torch.testing.assert_close(single.log_density(y), expected.log_prob(y).squeeze(-1))
    torch.testing.assert_close(single.expectation(), expected.mean)
    torch.testing.assert_close(single.variance(), expected.variance)
    torch.testing.assert_close(single.cdf(y), expected.cdf(y))
    torch.testing.assert_close(single.quantile(0.3), expected.icdf(torch.tensor(0.3).double()))


def test_crps_of_one_normal_is_the_textbook_formula():
    mean, scale = torch.tensor(0.7).double(), torch.tensor(1.3).double()
    y = torch.tensor([[-2.0], [0.7], [4.0]]).double()
    single = GaussianMixture(torch.zeros(1).double(), mean.expand(1, 3, 1), scale.log())
    z = (y - mean) / scale
    density = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    expected = scale * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    torch.testing.assert_close(single.crps(y), expected.squeeze(-1))


def test_crps_is_the_integral_of_the_squared_difference_of_cdfs():
    mixture, y = make_mixture(num_outputs=1), make_targets(num_outputs=1)
    crps, num_points = mixture.crps(y), 20_001
    for task, query in ((0, 0), (1, 3), (2, 4)):
        target = y[task, query, 0].item()
        integral = 0.0
        for low, high in ((-30.0, target), (target, 30.0)):  # the integrand jumps at the target
            grid = torch.linspace(low, high, num_points).double()
            mean, log_scale = (leaf[task, :, query].unsqueeze(1).expand(-1, num_points, 1) for leaf in mixture[1:])
            below = GaussianMixture(mixture.log_weights[task], mean, log_scale).cdf(grid[:, None])[:, 0]
            integral += torch.trapezoid((below - float(low == target)).square(), grid).item()
        assert crps[task, query].item() == pytest.approx(integral, abs=1e-6)  # the trapezoid rule errs by 1e-7


def test_crps_averages_over_outputs():
    mixture, y = make_mixture(), make_targets()
    outputs = [
        GaussianMixture(mixture.log_weights, mixture.mean[..., [o]], mixture.log_scale[..., [o]]).crps(y[..., [o]])
        for o in range(NUM_OUTPUTS)
    ]
    torch.testing.assert_close(mixture.crps(y), torch.stack(outputs).mean(0))


@pytest.mark.parametrize("level", [1e-6, 0.05, 0.5, 0.95, 1 - 1e-6])
def test_cdf_of_quantile_is_the_level(level):
    mixture = make_mixture()
    reached = mixture.cdf(mixture.quantile(level))
    torch.testing.assert_close(reached, torch.full_like(reached, level), rtol=0, atol=1e-12)


def test_quantile_of_cdf_is_the_value():
    mixture, y = make_mixture(num_outputs=1), make_targets(num_outputs=1)
    levels = mixture.cdf(y)
    for task in range(NUM_TASKS):
        for query in range(NUM_QUERY):
            again = mixture.quantile(levels[task, query, 0].item())[task, query, 0]
            assert again.item() == pytest.approx(y[task, query, 0].item(), abs=1e-9)


def test_interval_holds_its_level_with_equal_tails():
    mixture = make_mixture()
    low, high = mixture.interval(0.9)
    torch.testing.assert_close(mixture.cdf(low), torch.full_like(low, 0.05))
    torch.testing.assert_close(mixture.cdf(high), torch.full_like(high, 0.95))


def test_component_of_weight_zero_changes_nothing():
    mixture, y = make_mixture(), make_targets()
    far = torch.full_like(mixture.mean[:, :1], 1e6)
    padded = GaussianMixture(
        torch.cat([mixture.log_weights, torch.full((NUM_TASKS, 1), -math.inf).double()], dim=1),
        torch.cat([mixture.mean, far], dim=1),
        torch.cat([mixture.log_scale, torch.zeros_like(far)], dim=1),
    )
    for name in ("log_density", "cdf", "crps"):
        torch.testing.assert_close(getattr(padded, name)(y), getattr(mixture, name)(y))
    for name in ("expectation", "variance"):
        torch.testing.assert_close(getattr(padded, name)(), getattr(mixture, name)())
    torch.testing.assert_close(padded.quantile(0.05), mixture.quantile(0.05))


def test_scales_far_apart_stay_finite_and_keep_the_round_trip_in_float32():
    log_scale = torch.tensor([-14.0, 0.0, 14.0])[:, None, None]
    mixture = GaussianMixture(torch.full((3,), 1 / 3).log(), torch.tensor([0.0, 50.0, -3.0])[:, None, None], log_scale)
    y = torch.tensor([[0.001]])
    leaves = [leaf.requires_grad_() for leaf in mixture]
    total = mixture.log_density(y).sum() + mixture.crps(y).sum()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, leaves))
    for level in (0.01, 0.25, 0.5, 0.75, 0.99):
        assert mixture.cdf(mixture.quantile(level)).item() == pytest.approx(level, abs=2e-3)
    wide = GaussianMixture(*(leaf.detach().double() for leaf in mixture))
    assert mixture.crps(y).item() == pytest.approx(wide.crps(y.double()).item(), rel=1e-6)


def test_quantile_is_exact_where_a_negligible_component_is_astronomically_wide():
    log_scale = torch.tensor([-30.0, 40.0])[:, None, None]
    mixture = GaussianMixture(torch.tensor([0.0, -80.0]), torch.tensor([0.0, 1e6])[:, None, None], log_scale)
    expected = torch.exp(log_scale[0]) * torch.special.ndtri(torch.tensor(0.95))
    torch.testing.assert_close(mixture.quantile(0.95), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (NUM_COMPONENTS, 1, 1), (NUM_TASKS, 1, NUM_QUERY, 1)])
def test_log_scale_broadcasts_against_the_mean(shape):
    mixture, y = make_mixture(), make_targets()
    narrow = GaussianMixture(
        mixture.log_weights, mixture.mean, torch.linspace(-1, 1, math.prod(shape)).double().view(shape)
    )
    full = narrow._replace(log_scale=narrow.log_scale.expand_as(mixture.mean))
    for name in ("log_density", "cdf", "crps"):
        torch.testing.assert_close(getattr(narrow, name)(y), getattr(full, name)(y))
    torch.testing.assert_close(narrow.variance(), full.variance())
    torch.testing.assert_close(narrow.quantile(0.2), full.quantile(0.2))


@pytest.mark.parametrize("name", ["log_density", "cdf", "crps"])
def test_gradients_are_those_of_finite_differences(name):
    mixture, y = make_mixture(), make_targets()
    leaves = tuple(leaf.requires_grad_() for leaf in (*mixture, y))
    assert torch.autograd.gradcheck(lambda w, m, s, y: getattr(GaussianMixture(w, m, s), name)(y), leaves)


def test_tasks_batched_are_tasks_alone():
    mixture, y = make_mixture(), make_targets()
    alone = torch.stack([GaussianMixture(*(leaf[t] for leaf in mixture)).log_density(y[t]) for t in range(NUM_TASKS)])
    torch.testing.assert_close(mixture.log_density(y), alone)
    vmapped = torch.func.vmap(lambda w, m, s, y: GaussianMixture(w, m, s).log_density(y))(*mixture, y)
    torch.testing.assert_close(vmapped, alone)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, math.nan])
def test_level_outside_the_unit_interval_is_refused(level):
    mixture = make_mixture()
    with pytest.raises(ValueError, match=r"level=.* must lie inside \(0, 1\)"):
        mixture.quantile(level)
    with pytest.raises(ValueError, match=r"level=.* must lie inside \(0, 1\)"):
        mixture.interval(level)


def test_categorical_mixture_is_the_weighted_mean_of_softmaxes():
    generator = torch.Generator().manual_seed(2)
    log_weights = torch.randn(NUM_TASKS, NUM_COMPONENTS, generator=generator).double().log_softmax(-1)
    logits = torch.randn(NUM_TASKS, NUM_COMPONENTS, NUM_QUERY, 6, generator=generator).double()
    y = torch.randint(6, (NUM_TASKS, NUM_QUERY), generator=generator)
    mixture = CategoricalMixture(log_weights, logits)
    expected = torch.einsum("tn,tnqo->tqo", log_weights.exp(), logits.softmax(-1))
    torch.testing.assert_close(mixture.probabilities(), expected)
    torch.testing.assert_close(mixture.log_density(y), expected.log().gather(-1, y[..., None]).squeeze(-1))
    assert torch.autograd.gradcheck(
        lambda w, z: CategoricalMixture(w, z).log_density(y), (log_weights.requires_grad_(), logits.requires_grad_())
    )


def test_categorical_log_density_survives_logits_far_apart_in_float32():
    mixture = CategoricalMixture(torch.zeros(1), torch.tensor([[[0.0, 300.0]]]))
    assert mixture.log_density(torch.tensor([0])).item() == pytest.approx(-300.0)
