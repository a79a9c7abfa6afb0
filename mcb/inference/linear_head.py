r"""A linear head with Gaussian prior, conditioned on a support set and asked at query points, for many tasks at once.

With features $\phi$, head prior $\mathcal N(m, \mathrm{diag}\,s^2)$, bias prior $\mathcal N(b, v)$ and noise variance
$\sigma^2$, an output is a Gaussian process with mean $m^\top\phi + b$ and kernel
$k(\phi, \phi') = \phi^\top \mathrm{diag}(s^2)\, \phi' + v$. All of it is one node of the autograd graph with a
derivative worked out by hand: as dozens of nodes, each small step would carry every task and mode through memory again.
On a CPU it is compiled (`linear_head_cpu`), elsewhere made of tensor operations (`linear_head_torch`).
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mcb.inference import linear_head_torch

ROUNDING = 8  # units in the last place of the trace, added to a Gram matrix's diagonal: it stays positive definite


class HeadPrior(NamedTuple):
    """The prior of one output of a linear head; without a bias, its mean and variance are 0."""

    mean: Float[Tensor, "*t H"]
    scale: Float[Tensor, "*t H"]
    bias_mean: Float[Tensor, "*t"]
    bias_variance: Float[Tensor, "*t"]


class HeadAnswer(NamedTuple):
    """The evidence of the support set in nats; mean and variance, without noise, at the query points; all float64."""

    log_evidence: Float[Tensor, "*t"]
    prediction: Float[Tensor, "*t Q"]
    variance: Float[Tensor, "*t Q"]


def answer(
    prior: HeadPrior,
    features: Float[Tensor, "*t N H"],
    y: Float[Tensor, "*t S"],
    mask: Bool[Tensor, "*t S"],
    noise_variance: Float[Tensor, "*t"],
    gram_dtype: torch.dtype,
) -> HeadAnswer:
    """One output's evidence and predictions, its Gram matrix formed in `gram_dtype` and inverted in float64.

    `features` are those of the `S` support points and then of the query points, `N = S + Q` in all.
    It may be nested in any number of `vmap`s; it is differentiable once, in everything but the mask.
    """
    inputs = (*prior, features, y, noise_variance, mask, gram_dtype)
    return HeadAnswer(*cast("tuple[Tensor, ...]", _Answer.apply(*inputs))[:3])


class _Answer(torch.autograd.Function):
    """Returns the three of `HeadAnswer`, then what the derivative needs: precision and weights, 0 at masked points."""

    @staticmethod
    def forward(mean, scale, bias_mean, bias_variance, features, y, noise_variance, mask, gram_dtype):
        leading = features.shape[:-2]
        inputs = _flat(len(leading), (mean, scale, bias_mean, bias_variance, features), gram_dtype)
        given = _flat(len(leading), (y, noise_variance, mask), torch.float64)
        rounding = ROUNDING * torch.finfo(gram_dtype).eps
        results = implementation(features.device).forward(inputs[:4], inputs[4], *given, rounding)
        return tuple(result.view(*leading, *result.shape[1:]) for result in results)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:5], *output[3:])
        ctx.mark_non_differentiable(*output[3:])
        ctx.gram_dtype = inputs[-1]

    @staticmethod
    def backward(ctx, to_evidence, to_prediction, to_variance, *_):
        *prior, features, precision, weights = ctx.saved_tensors
        leading = features.shape[:-2]
        inputs = _flat(len(leading), (*prior, features), ctx.gram_dtype)
        given = _flat(len(leading), (precision, weights, to_evidence, to_prediction, to_variance), torch.float64)
        gradients = implementation(features.device).backward(inputs[:4], inputs[4], *given)
        return *(gradient.view(*leading, *gradient.shape[1:]) for gradient in gradients), None, None

    @staticmethod
    def vmap(info, in_dims: tuple[int | None, ...], *inputs: Any):
        """Every tensor with the mapped axis in front, the unmapped ones expanded: `forward` takes any leading axes."""
        batched = [
            value
            if not isinstance(value, Tensor)
            else value.expand(info.batch_size, *value.shape)
            if axis is None
            else value.movedim(axis, 0)
            for value, axis in zip(inputs, in_dims, strict=True)
        ]
        return _Answer.apply(*batched), (0,) * 5


def _flat(num_leading: int, tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The leading axes as one, `B`."""
    return [
        tensor.reshape((math.prod(tensor.shape[:num_leading]), *tensor.shape[num_leading:])).to(dtype)
        for tensor in tensors
    ]


def implementation(device: torch.device) -> ModuleType:
    """The module whose `forward` and `backward` suit the device."""
    if device.type != "cpu":
        return linear_head_torch
    from mcb.inference import linear_head_cpu  # its compiler is slow to import, and not needed on other devices

    return linear_head_cpu
