"""Inverse and log determinant of many small symmetric positive definite matrices at once.

LAPACK's batched routines call one small factorisation after the other; here the batch is the innermost, contiguous
axis, so that each of the `S` sweeps (Goodnight 1979, "A tutorial on the SWEEP operator") is a handful of vector
operations over the whole batch. For positive definite matrices its pivots are those of the Cholesky factorisation.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor


class _InverseAndLogDet(torch.autograd.Function):
    """Analytic derivatives: with `P` the inverse, `dP = -P dA P` and `d log|A| = tr(P dA)`."""

    @staticmethod
    def forward(matrix: Tensor) -> tuple[Tensor, Tensor]:
        swept = torch.movedim(matrix, (-2, -1), (0, 1)).clone(memory_format=torch.contiguous_format)
        log_det = matrix.new_zeros(matrix.shape[:-2])
        for pivot in range(matrix.shape[-1]):
            scale = swept[pivot, pivot].clone()
            log_det += scale.log()
            row = swept[pivot] / scale
            column = swept[:, pivot].clone()
            swept -= column[:, None] * row
            swept[pivot] = row
            swept[:, pivot] = -column / scale
            swept[pivot, pivot] = 1 / scale
        return torch.movedim(swept, (0, 1), (-2, -1)).contiguous(), log_det

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[0])

    @staticmethod
    def backward(ctx, grad_inverse: Tensor, grad_log_det: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        return grad_log_det[..., None, None] * inverse - inverse @ grad_inverse @ inverse

    @staticmethod
    def vmap(info, in_dims: tuple[int | None], matrix: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        assert in_dims[0] is not None
        return inverse_and_log_det(matrix.movedim(in_dims[0], 0)), (0, 0)


def inverse_and_log_det(matrix: Float[Tensor, "*t S S"]) -> tuple[Float[Tensor, "*t S S"], Float[Tensor, "*t"]]:
    """Both, for symmetric positive definite matrices; not a number where a pivot is not positive.

    Twice differentiable along symmetric matrices.
    """
    return cast("tuple[Tensor, Tensor]", _InverseAndLogDet.apply(matrix))
