"""Small matrices with the batch innermost against einsum and torch.linalg."""

import pytest
import torch
from torch import Tensor

from mcb.inference.batch_last import innermost, inverse_and_log_det, outermost, product, row_products


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive_definite(size: int, batch: int) -> Tensor:
    root = draws(size, size + 2, batch)
    return torch.einsum("ikb,jkb->ijb", root, root) + 0.1 * torch.eye(size)[..., None]


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("axes", [(), (4,), (5, 4)], ids=str)
def test_the_batch_goes_behind_contiguously_and_comes_back(leading, axes):
    x = draws(*leading, *axes)
    moved = innermost(x, len(axes))
    assert moved.shape == (*axes, torch.Size(leading).numel()) and moved.is_contiguous()
    if x.numel():
        assert moved[..., -1].equal(x.reshape(-1, *axes)[-1])
    assert outermost(moved, torch.Size(leading)).equal(x)


@pytest.mark.parametrize(("rows", "columns", "inner"), [(2, 3, 4), (1, 1, 1), (0, 3, 2), (2, 3, 0)])
def test_products_are_those_of_einsum(rows, columns, inner):
    a, b, c = draws(rows, inner, 5), draws(columns, inner, 5, seed=1), draws(inner, columns, 5, seed=2)
    torch.testing.assert_close(row_products(a, b), torch.einsum("nhb,mhb->nmb", a, b))
    torch.testing.assert_close(product(a, c), torch.einsum("nmb,mhb->nhb", a, c))


@pytest.mark.parametrize("size", [0, 1, 2, 5, 12])
def test_inverse_and_log_determinant_are_those_of_linalg_and_the_matrix_stays(size):
    matrix = positive_definite(size, batch=7)
    untouched = matrix.clone()
    inverse, log_det = inverse_and_log_det(matrix)
    batched = matrix.movedim(-1, 0)
    torch.testing.assert_close(inverse.movedim(-1, 0), torch.linalg.inv(batched))
    torch.testing.assert_close(log_det, torch.linalg.slogdet(batched).logabsdet)
    assert matrix.equal(untouched)


def test_a_pivot_that_is_not_positive_gives_no_number():
    matrix = torch.stack([torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])], dim=-1).double()
    log_det = inverse_and_log_det(matrix)[1]
    assert log_det[0] == 0 and log_det[1].isnan()
