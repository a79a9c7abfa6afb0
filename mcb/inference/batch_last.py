"""Many small matrices at once: the batch `B` is the innermost, contiguous axis.

Batched matrix routines handle one small matrix after the other and spend their time between them; with the batch
innermost, each step of the textbook algorithm is one vector operation over all of them.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def innermost(x: Tensor, num_axes: int) -> Tensor:
    """The last `num_axes` axes first, all leading ones flattened into one contiguous axis `B` behind them.

    >>> innermost(torch.zeros(2, 3, 5, 4), num_axes=2).shape
    torch.Size([5, 4, 6])
    """
    axes = x.shape[x.ndim - num_axes :]
    return x.reshape((math.prod(x.shape[: x.ndim - num_axes]), *axes)).movedim(0, -1).contiguous()


def outermost(x: Tensor, leading: torch.Size) -> Tensor:
    """The inverse: the axis `B` as leading axes of shape `leading`."""
    return x.movedim(-1, 0).reshape((*leading, *x.shape[:-1]))


def row_products(a: Float[Tensor, "N H B"], b: Float[Tensor, "M H B"]) -> Float[Tensor, "N M B"]:
    """`a b^T`: the inner products of every row of `a` with every row of `b`."""
    products = a.new_zeros(a.shape[0], b.shape[0], a.shape[2])
    for column in range(a.shape[1]):
        products.addcmul_(a[:, None, column], b[None, :, column])
    return products


def product(a: Float[Tensor, "N M B"], b: Float[Tensor, "M H B"]) -> Float[Tensor, "N H B"]:
    """`a b`."""
    result = a.new_zeros(a.shape[0], b.shape[1], a.shape[2])
    for row in range(b.shape[0]):
        result.addcmul_(a[:, row, None], b[row])
    return result


def inverse_and_log_det(matrix: Float[Tensor, "S S B"]) -> tuple[Float[Tensor, "S S B"], Float[Tensor, "B"]]:
    """Of symmetric positive definite matrices, by `S` sweeps; not a number where a pivot is not positive.

    The pivots are those of the Cholesky factorisation (Goodnight 1979, "A tutorial on the SWEEP operator").
    """
    swept = matrix.clone()
    log_det = matrix.new_zeros(matrix.shape[-1])
    for pivot in range(matrix.shape[0]):
        scale = swept[pivot, pivot].clone()
        log_det += scale.log()
        row = swept[pivot] / scale
        column = swept[:, pivot].clone()
        swept.addcmul_(column[:, None], row, value=-1)
        swept[pivot] = row
        swept[:, pivot] = -column / scale
        swept[pivot, pivot] = 1 / scale
    return swept, log_det
