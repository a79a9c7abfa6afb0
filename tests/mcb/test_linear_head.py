"""The hand-made derivatives of the linear head against finite differences and against autograd through torch.linalg."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.func import grad, vmap

from mcb.inference import linear_head, linear_head_cpu, linear_head_kernels, linear_head_torch
from mcb.inference.linear_head import HeadPrior, answer

S, Q, H = 4, 3, 5


@pytest.fixture(params=[linear_head_cpu, linear_head_torch], ids=["compiled", "torch"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test sees both; the tensor operations are those of other devices."""
    monkeypatch.setattr(linear_head, "implementation", lambda device: request.param)


def draws(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(*leading: int) -> list[Tensor]:
    """Mean, scale, bias mean, bias variance, support features, targets, noise variance, query features."""
    return [
        draws(*leading, H, seed=0),
        draws(*leading, H, seed=1).exp(),
        draws(*leading, seed=2),
        draws(*leading, seed=3).square() + 0.1,
        draws(*leading, S, H, seed=4),
        draws(*leading, S, seed=5),
        draws(*leading, seed=6).square() + 0.1,
        draws(*leading, Q, H, seed=7),
    ]


def mask(*leading: int) -> Tensor:
    return torch.tensor([True, True, False, True]).expand(*leading, S)


def fast(present: Tensor, gram_dtype: torch.dtype = torch.float64):
    """Evidence, mean and variance as a function of `inputs`."""

    def outputs(mean, scale, bias_mean, bias_variance, features, y, noise, query_features, present=present):
        prior = HeadPrior(mean, scale, bias_mean, bias_variance)
        points = torch.cat([features, query_features], -2)
        return tuple(answer(prior, points, y, present, noise, gram_dtype))

    return outputs


def plain(mean, scale, bias_mean, bias_variance, features, y, noise, query_features) -> tuple[Tensor, Tensor, Tensor]:
    """Evidence, mean and variance of one problem without masked points, by torch.linalg."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a * scale.square()) @ b.T + bias_variance

    targets = MultivariateNormal(features @ mean + bias_mean, kernel(features, features) + noise * torch.eye(len(y)))
    gain = torch.linalg.solve(targets.covariance_matrix, kernel(features, query_features)).T
    prediction = query_features @ mean + bias_mean + gain @ (y - targets.mean)
    variance = (kernel(query_features, query_features) - gain @ kernel(features, query_features)).diagonal()
    return targets.log_prob(y), prediction, variance


def test_values_and_gradients_are_those_of_autograd_through_linalg():
    leaves = [leaf.requires_grad_() for leaf in inputs(6)]
    everywhere = torch.ones(6, S, dtype=torch.bool)
    results = fast(everywhere)(*leaves)
    expected = [torch.stack(column) for column in zip(*(plain(*row) for row in zip(*leaves, strict=True)), strict=True)]
    torch.testing.assert_close(results, tuple(expected))
    weights = [draws(*result.shape, seed=8) for result in expected]
    torch.testing.assert_close(
        torch.autograd.grad(results, leaves, weights), torch.autograd.grad(expected, leaves, weights)
    )


def total(results: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([result.cos().sum() for result in results]).sum()


def test_more_problems_than_lanes_are_each_as_alone_in_values_and_gradients():
    count = 2 * linear_head_kernels.LANES + 3
    leaves = [leaf.requires_grad_() for leaf in inputs(count)]
    together = fast(mask(count))(*leaves)
    alone = [fast(mask(1))(*(leaf[row : row + 1] for leaf in leaves)) for row in range(count)]
    expected = tuple(torch.cat(results) for results in zip(*alone, strict=True))
    torch.testing.assert_close(together, expected)
    weights = [draws(*result.shape, seed=8) for result in expected]
    torch.testing.assert_close(
        torch.autograd.grad(together, leaves, weights), torch.autograd.grad(expected, leaves, weights)
    )


def test_a_single_problem_needs_no_leading_axis():
    torch.testing.assert_close(fast(mask())(*inputs()), tuple(result[0] for result in fast(mask(1))(*inputs(1))))


@pytest.mark.parametrize("what", [math.nan, math.inf, 1e200])
def test_what_stands_in_a_masked_place_never_reaches_a_value_or_a_gradient(what):
    leaves = inputs(2)
    garbage = [leaf.clone() for leaf in leaves]
    garbage[4][:, 2], garbage[5][:, 2] = what, what
    results = [fast(mask(2))(*(leaf.requires_grad_() for leaf in given)) for given in (leaves, garbage)]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    gradients = [
        torch.autograd.grad(total(result), given) for result, given in zip(results, (leaves, garbage), strict=True)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_gradients_may_be_taken_inside_vmap():
    leaves = inputs(3)
    inside = vmap(grad(lambda *one: total(fast(mask())(*one)), argnums=tuple(range(len(leaves)))))(*leaves)
    tracked = [leaf.clone().requires_grad_() for leaf in leaves]
    outside = torch.autograd.grad(total(fast(mask(3))(*tracked)), tracked)
    torch.testing.assert_close(inside, outside)


def test_a_second_derivative_is_refused():
    leaves = [leaf.requires_grad_() for leaf in inputs(1)]
    slope = torch.autograd.grad(fast(mask(1))(*leaves)[0].sum(), leaves[4], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiable once"):
        slope.square().sum().backward()


def test_derivatives_of_every_output_in_every_input_are_finite_differences_with_a_masked_point():
    assert torch.autograd.gradcheck(fast(mask(2)), [leaf.requires_grad_() for leaf in inputs(2)])


def test_a_masked_point_is_as_good_as_none():
    leaves = inputs(2)
    present = mask(1)[0]
    without = [leaf[:, present] if i in (4, 5) else leaf for i, leaf in enumerate(leaves)]
    masked, removed = fast(mask(2))(*leaves), fast(torch.ones(2, 3, dtype=torch.bool))(*without)
    torch.testing.assert_close(masked, removed)


@pytest.mark.parametrize("shared", [(), (0, 1, 2, 3), (4, 5, 7)], ids=["nothing", "the prior", "the data"])
def test_nested_vmaps_equal_the_batch_in_values_and_gradients(shared):
    """What is shared goes unmapped through the inner vmap: its gradient is the sum over the axis."""
    leaves = [leaf.requires_grad_() for leaf in inputs(2, 3)]
    given = [leaf[:, 0] if i in shared else leaf for i, leaf in enumerate(leaves)]
    expanded = [leaf[:, :1].expand_as(leaf) if i in shared else leaf for i, leaf in enumerate(leaves)]
    dims = tuple(None if i in shared else 0 for i in range(len(leaves)))
    mapped = vmap(vmap(fast(mask()), in_dims=dims))(*given)
    batch = fast(mask(2, 3))(*expanded)
    torch.testing.assert_close(mapped, batch)
    weights = [draws(*result.shape, seed=9) for result in batch]
    torch.testing.assert_close(
        torch.autograd.grad(mapped, leaves, weights), torch.autograd.grad(batch, leaves, weights)
    )


def test_single_precision_gram_matrices_agree_with_double_ones_in_values_and_gradients():
    leaves = [leaf.float().requires_grad_() for leaf in inputs(6)]
    exact, rounded = (fast(mask(6), dtype)(*leaves) for dtype in (torch.float64, torch.float32))
    assert all(result.dtype == torch.float64 for result in rounded)
    torch.testing.assert_close(rounded, exact, rtol=1e-3, atol=1e-3)
    assert not rounded[1].equal(exact[1])
    weights = [draws(*result.shape, seed=8) for result in exact]
    torch.testing.assert_close(
        torch.autograd.grad(rounded, leaves, weights),
        torch.autograd.grad(exact, leaves, weights),
        rtol=1e-3,
        atol=1e-3,
    )


def test_no_support_points_leave_the_prior():
    mean, scale, bias_mean, bias_variance, *_, noise, query_features = inputs(2)
    prior = HeadPrior(mean, scale, bias_mean, bias_variance)
    nothing = (draws(2, 0, seed=0), mask(2)[:, :0], noise)
    log_evidence, prediction, variance = answer(prior, query_features, *nothing, torch.float64)
    assert not log_evidence.any()
    torch.testing.assert_close(prediction, torch.einsum("bqh,bh->bq", query_features, mean) + bias_mean[:, None])
    spread = torch.einsum("bqh,bh->bq", query_features.square(), scale.square()) + bias_variance[:, None]
    torch.testing.assert_close(variance, spread)


def test_the_compiled_form_is_for_cpus_and_tensor_operations_for_every_other_device(monkeypatch):
    monkeypatch.undo()
    assert linear_head.implementation(torch.device("cpu")) is linear_head_cpu
    assert linear_head.implementation(torch.device("cuda")) is linear_head_torch
