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
    """One output's evidence and predictions, formed in `gram_dtype`; its Gram matrix is inverted in float64.

    `features` are those of the `S` support points and then of the query points, `N = S + Q` in all.
    The rounding on the Gram matrix's diagonal is not differentiated. May be nested in any number of `vmap`s, inside and
    outside of gradients; differentiable once, in everything but the mask, and raises where it is asked for more.
    """
    inputs = (*prior, features, y, noise_variance, mask, gram_dtype)
    return HeadAnswer(*cast("tuple[Tensor, ...]", _Answer.apply(*inputs))[:3])


class _Answer(torch.autograd.Function):
    """Returns the three of `HeadAnswer`, then what the derivative needs: precision and weights, 0 at masked points."""

    @staticmethod
    def forward(mean, scale, bias_mean, bias_variance, features, y, noise_variance, mask, gram_dtype):
        leading = features.shape[:-2]
        y, features = without_masked(y, features, mask)
        inputs = _flat(len(leading), (mean, scale, bias_mean, bias_variance, features), gram_dtype)
        given = _flat(len(leading), (y, noise_variance, mask), torch.float64)
        rounding = ROUNDING * torch.finfo(gram_dtype).eps
        results = implementation(features.device).forward(inputs[:4], inputs[4], *given, rounding)
        return tuple(result.view((*leading, *result.shape[1:])) for result in results)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *differentiable, mask, ctx.gram_dtype = inputs
        ctx.save_for_backward(*differentiable[:5], mask, *output[3:])
        ctx.mark_non_differentiable(*output[3:])

    @staticmethod
    def backward(ctx, to_evidence, to_prediction, to_variance, *_):
        gradients = _Gradients.apply(*ctx.saved_tensors, to_evidence, to_prediction, to_variance, ctx.gram_dtype)
        return *cast("tuple[Tensor, ...]", gradients), None, None

    @staticmethod
    def vmap(info, in_dims: tuple[int | None, ...], *inputs: Any):
        return _Answer.apply(*batched(info.batch_size, in_dims, inputs)), (0,) * 5


class _Gradients(torch.autograd.Function):
    """The derivative of `_Answer` as an operation of its own, so that it may be mapped too."""

    @staticmethod
    def forward(
        mean, scale, bias_mean, bias_variance, features, mask, precision, weights,
        to_evidence, to_prediction, to_variance, gram_dtype,
    ):  # fmt: skip
        leading = features.shape[:-2]
        _, features = without_masked(weights, features, mask)
        inputs = _flat(len(leading), (mean, scale, bias_mean, bias_variance, features), gram_dtype)
        given = _flat(len(leading), (precision, weights, to_evidence, to_prediction, to_variance), torch.float64)
        gradients = implementation(features.device).backward(inputs[:4], inputs[4], *given)
        return tuple(gradient.view((*leading, *gradient.shape[1:])) for gradient in gradients)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError("the exact head is differentiable once: use GradientDescent for second derivatives")

    @staticmethod
    def vmap(info, in_dims: tuple[int | None, ...], *inputs: Any):
        return _Gradients.apply(*batched(info.batch_size, in_dims, inputs)), (0,) * 7


def batched(size: int, in_dims: tuple[int | None, ...], inputs: tuple[Any, ...]) -> list[Any]:
    """Every tensor with the mapped axis in front, the unmapped ones expanded: `forward` takes any leading axes."""
    return [
        value
        if not isinstance(value, Tensor)
        else value.expand(size, *value.shape)
        if axis is None
        else value.movedim(axis, 0)
        for value, axis in zip(inputs, in_dims, strict=True)
    ]


def without_masked(y: Tensor, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros where no point is, so that what stands there cannot spread as a number that is not finite."""
    if mask.all():
        return y, features
    num_query = features.shape[-2] - mask.shape[-1]
    present = torch.cat([mask, mask.new_ones(*mask.shape[:-1], num_query)], -1)
    return torch.where(mask, y, 0), torch.where(present[..., None], features, 0)


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
