"""The batched inverse and log determinant against torch.linalg, and their derivatives against finite differences."""

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from mcb.inference.sweep import inverse_and_log_det


def positive_definite(*shape: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(*shape, size, size + 2, generator=generator, dtype=torch.float64)
    return root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)


def scalar(matrix: Tensor) -> Tensor:
    """A smooth function of both outputs that no symmetry makes trivial."""
    inverse, log_det = inverse_and_log_det(matrix)
    weights = torch.arange(inverse.numel(), dtype=inverse.dtype).view_as(inverse).cos()
    return (weights * inverse.sin()).sum() + log_det.square()


def reference(matrix: Tensor) -> Tensor:
    """`scalar` by torch.linalg."""
    inverse = torch.linalg.inv(matrix)
    weights = torch.arange(inverse.numel(), dtype=inverse.dtype).view_as(inverse).cos()
    return (weights * inverse.sin()).sum() + torch.linalg.slogdet(matrix).logabsdet.square()


@pytest.mark.parametrize("size", [0, 1, 2, 5, 12])
@pytest.mark.parametrize("shape", [(), (7,), (2, 3)], ids=str)
def test_equals_torch_linalg(shape, size):
    matrix = positive_definite(*shape, size=size)
    untouched = matrix.clone()
    inverse, log_det = inverse_and_log_det(matrix)
    torch.testing.assert_close(inverse, torch.linalg.inv(matrix))
    torch.testing.assert_close(log_det, torch.linalg.slogdet(matrix).logabsdet)
    torch.testing.assert_close(matrix, untouched, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_first_and_second_derivatives_are_those_of_finite_differences(shape):
    matrix = positive_definite(*shape, size=3).requires_grad_()
    assert torch.autograd.gradcheck(inverse_and_log_det, matrix)
    assert torch.autograd.gradgradcheck(inverse_and_log_det, matrix)


@pytest.mark.parametrize("in_dim", [0, 1, 2])
def test_one_vmap_equals_the_batch(in_dim):
    matrix = positive_definite(4, size=3)
    inverse, log_det = vmap(inverse_and_log_det, in_dims=in_dim)(matrix.movedim(0, in_dim))
    torch.testing.assert_close(inverse, torch.linalg.inv(matrix))
    torch.testing.assert_close(log_det, torch.linalg.slogdet(matrix).logabsdet)


def test_two_vmaps_equal_the_batch():
    matrix = positive_definite(4, 2, size=3)
    inverse, log_det = vmap(vmap(inverse_and_log_det, in_dims=1), in_dims=0)(matrix.movedim(1, 2))
    torch.testing.assert_close(inverse, torch.linalg.inv(matrix))
    torch.testing.assert_close(log_det, torch.linalg.slogdet(matrix).logabsdet)


def test_an_inner_batch_of_its_own_survives_vmap():
    matrix = positive_definite(4, 2, size=3)
    inverse, log_det = vmap(inverse_and_log_det)(matrix)
    torch.testing.assert_close(inverse, torch.linalg.inv(matrix))
    torch.testing.assert_close(log_det, torch.linalg.slogdet(matrix).logabsdet)


def test_gradients_inside_and_outside_of_two_vmaps_are_those_of_linalg():
    matrix = positive_definite(4, 2, size=3)
    expected = torch.stack([torch.stack([grad(reference)(one) for one in row]) for row in matrix])
    torch.testing.assert_close(vmap(vmap(grad(scalar)))(matrix), expected)
    torch.testing.assert_close(grad(lambda m: vmap(vmap(scalar))(m).sum())(matrix), expected)
    leaf = matrix.clone().requires_grad_()
    vmap(vmap(scalar))(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, expected)


def test_second_derivatives_through_vmap_are_those_of_linalg():
    """In terms of a root, since the derivatives are those along symmetric matrices."""

    def squared_slope(function, root: Tensor) -> Tensor:
        return grad(lambda r: function(r @ r.mT + torch.eye(3).double()))(root).square().sum()

    roots = positive_definite(4, size=3)
    expected = torch.stack([grad(lambda r: squared_slope(reference, r))(root) for root in roots])
    torch.testing.assert_close(vmap(grad(lambda r: squared_slope(scalar, r)))(roots), expected)
    outside = grad(lambda batch: vmap(lambda r: squared_slope(scalar, r))(batch).sum())(roots)
    torch.testing.assert_close(outside, expected)


def test_a_pivot_that_is_not_positive_gives_no_number():
    matrix = torch.stack([torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])]).double()
    log_det = inverse_and_log_det(matrix)[1]
    assert log_det[0] == 0 and log_det[1].isnan()
