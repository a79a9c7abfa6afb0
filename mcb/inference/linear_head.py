r"""Conditioning the Gaussian prior of a linear head on a support set, and predicting from it, for many tasks at once.

With features $\phi$, head prior $\mathcal N(m, \mathrm{diag}\,s^2)$, bias prior $\mathcal N(b, v)$ and noise variance
$\sigma^2$, an output is a Gaussian process with mean $m^\top\phi + b$ and kernel
$\phi^\top \mathrm{diag}(s^2)\, \phi' + v$. Each of the two functions is one node of the autograd graph with a
derivative worked out by hand, which takes a fraction of the memory traffic of the operations that it is made of. Both
may be nested in any number of `vmap`s and are differentiable once.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mcb.inference.batch_last import innermost, inverse_and_log_det, outermost, product, row_products

_ROUNDING = (
    8  # units in the last place of the Gram matrix's trace: added to its diagonal, they keep it positive definite
)


class HeadPrior(NamedTuple):
    """The prior of one output of a linear head; without a bias, its mean and variance are 0."""

    mean: Float[Tensor, "*t H"]
    scale: Float[Tensor, "*t H"]
    bias_mean: Float[Tensor, "*t"]
    bias_variance: Float[Tensor, "*t"]


class Conditioned(NamedTuple):
    r"""$A^{-1}$ and $A^{-1}(y - \text{mean})$ with $A$ the Gram matrix plus noise, 0 at masked points; float64."""

    precision: Float[Tensor, "*t S S"]
    weights: Float[Tensor, "*t S"]
    log_evidence: Float[Tensor, "*t"]


def condition(
    prior: HeadPrior,
    features: Float[Tensor, "*t S H"],
    y: Float[Tensor, "*t S"],
    mask: Bool[Tensor, "*t S"],
    noise_variance: Float[Tensor, "*t"],
    gram_dtype: torch.dtype,
) -> Conditioned:
    """What the support set says; its Gram matrix is formed in `gram_dtype` and inverted in float64."""
    return Conditioned(*cast("tuple", _Condition.apply(*prior, features, y, noise_variance, mask, gram_dtype)))


def predict(
    prior: HeadPrior,
    features: Float[Tensor, "*t S H"],
    conditioned: Conditioned,
    query_features: Float[Tensor, "*t Q H"],
    gram_dtype: torch.dtype,
) -> tuple[Float[Tensor, "*t Q"], Float[Tensor, "*t Q"]]:
    """Mean and variance of the noise-free output at the query points, float64."""
    inputs = (*prior, features, *conditioned[:2], query_features, gram_dtype)
    return cast("tuple[Tensor, Tensor]", _Predict.apply(*inputs))


class _Condition(torch.autograd.Function):
    @staticmethod
    def forward(mean, scale, bias_mean, bias_variance, features, y, noise_variance, mask, gram_dtype):
        present = innermost(mask, 1)
        head = _Head((mean, scale, bias_mean, bias_variance), gram_dtype)
        phi = innermost(features, 2).to(gram_dtype)
        residual = torch.where(present, innermost(y, 1) - head.mean_prediction(phi), 0).double()
        both = present[:, None] & present
        design = phi * head.scale
        gram = torch.where(both, (row_products(design, design) + head.bias_variance).double(), 0)
        diagonal = gram.diagonal().mT
        rounding = _ROUNDING * torch.finfo(gram_dtype).eps * diagonal.sum(0)
        diagonal += torch.where(present, innermost(noise_variance, 0).double() + rounding, 1.0)
        precision, log_det = inverse_and_log_det(gram)
        precision = torch.where(both, precision, 0)
        weights = (precision * residual).sum(1)
        log_evidence = -0.5 * ((residual * weights).sum(0) + log_det + present.sum(0) * math.log(2 * math.pi))
        return tuple(outermost(result, features.shape[:-2]) for result in (precision, weights, log_evidence))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:5], *output[:2])
        ctx.gram_dtype = inputs[-1]

    @staticmethod
    def backward(ctx, grad_precision, grad_weights, grad_log_evidence):
        *prior, features, precision, weights = ctx.saved_tensors
        head = _Head(prior, ctx.gram_dtype)
        phi = innermost(features, 2).to(ctx.gram_dtype)
        inverse, w = innermost(precision, 2), innermost(weights, 1)
        half = 0.5 * innermost(grad_log_evidence, 0)
        to_residual = (inverse * innermost(grad_weights, 1)).sum(1)
        to_gram = (half * w - to_residual)[:, None] * w
        to_gram -= product(product(inverse, innermost(grad_precision, 2)), inverse)
        to_gram = 0.5 * (to_gram + to_gram.transpose(0, 1)) - half * inverse
        to_residual -= 2 * half * w
        to_design = product(2 * to_gram.to(ctx.gram_dtype), phi * head.scale)
        to_prediction = -to_residual.to(ctx.gram_dtype)
        grads = (
            *head.gradients(phi, to_design, to_prediction),
            to_gram.sum((0, 1)),
            head.to_features(to_design, to_prediction),
            to_residual,
            to_gram.diagonal().sum(-1),
        )
        leading = features.shape[:-2]
        return *(outermost(grad, leading) for grad in grads), None, None

    @staticmethod
    def vmap(info, in_dims: tuple[int | None, ...], *inputs: Any):
        results = _Condition.apply(*_batched(info.batch_size, in_dims, inputs))
        return results, (0, 0, 0)


class _Predict(torch.autograd.Function):
    @staticmethod
    def forward(mean, scale, bias_mean, bias_variance, features, precision, weights, query_features, gram_dtype):
        head = _Head((mean, scale, bias_mean, bias_variance), gram_dtype)
        phi = innermost(query_features, 2).to(gram_dtype)
        design = phi * head.scale
        cross = head.cross(innermost(features, 2), design)
        prediction = head.mean_prediction(phi) + (cross * innermost(weights, 1)[:, None]).sum(0)
        variance = (
            design.square().sum(1) + head.bias_variance - (cross * product(innermost(precision, 2), cross)).sum(0)
        )
        return tuple(outermost(result, query_features.shape[:-2]) for result in (prediction, variance))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:8])
        ctx.gram_dtype = inputs[-1]

    @staticmethod
    def backward(ctx, grad_prediction, grad_variance):
        *prior, features, precision, weights, query_features = ctx.saved_tensors
        head = _Head(prior, ctx.gram_dtype)
        support_phi, phi = (innermost(f, 2).to(ctx.gram_dtype) for f in (features, query_features))
        support_design, design = support_phi * head.scale, phi * head.scale
        cross = head.cross(support_phi, design)
        to_prediction, to_variance = innermost(grad_prediction, 1), innermost(grad_variance, 1)
        weighted = product(innermost(precision, 2), cross) * to_variance
        to_cross = innermost(weights, 1)[:, None] * to_prediction - 2 * weighted
        narrow = to_cross.to(ctx.gram_dtype)
        to_support_design = product(narrow, design)
        to_design = product(narrow.transpose(0, 1), support_design)
        to_design.addcmul_(2 * to_variance[:, None].to(ctx.gram_dtype), design)
        to_mean = to_prediction.to(ctx.gram_dtype)
        grad_mean, grad_scale, grad_bias = head.gradients(phi, to_design, to_mean)
        grads = (
            grad_mean,
            grad_scale + (to_support_design * support_phi).sum(0),
            grad_bias,
            to_cross.sum((0, 1)) + to_variance.sum(0),
            to_support_design * head.scale,
            row_products(-to_variance * cross, cross),
            (cross * to_prediction).sum(1),
            head.to_features(to_design, to_mean),
        )
        leading = features.shape[:-2]
        return *(outermost(grad, leading) for grad in grads), None

    @staticmethod
    def vmap(info, in_dims: tuple[int | None, ...], *inputs: Any):
        results = _Predict.apply(*_batched(info.batch_size, in_dims, inputs))
        return results, (0, 0)


class _Head:
    """A prior with the batch innermost, in the type that Gram matrices are formed in."""

    def __init__(self, prior: Sequence[Tensor], dtype: torch.dtype) -> None:
        mean, scale, bias_mean, bias_variance = prior
        self.mean, self.scale = innermost(mean, 1).to(dtype), innermost(scale, 1).to(dtype)
        self.bias_mean, self.bias_variance = innermost(bias_mean, 0).to(dtype), innermost(bias_variance, 0).to(dtype)

    def mean_prediction(self, phi: Float[Tensor, "N H B"]) -> Float[Tensor, "N B"]:
        """Of the mean head."""
        return row_products(phi, self.mean[None])[:, 0] + self.bias_mean

    def cross(self, support_phi: Float[Tensor, "S H B"], design: Float[Tensor, "Q H B"]) -> Float[Tensor, "S Q B"]:
        """Covariances of support and query outputs, float64."""
        return (row_products(support_phi.to(design) * self.scale, design) + self.bias_variance).double()

    def gradients(
        self, phi: Float[Tensor, "N H B"], to_design: Float[Tensor, "N H B"], to_prediction: Float[Tensor, "N B"]
    ) -> tuple[Float[Tensor, "H B"], Float[Tensor, "H B"], Float[Tensor, "B"]]:
        """Of mean, scale and bias mean, given the gradients of the design and of the mean prediction."""
        to_mean, to_scale = torch.zeros_like(self.mean), torch.zeros_like(self.scale)
        for point, of_design, of_prediction in zip(phi, to_design, to_prediction, strict=True):
            to_mean.addcmul_(of_prediction, point)
            to_scale.addcmul_(of_design, point)
        return to_mean, to_scale, to_prediction.sum(0)

    def to_features(
        self, to_design: Float[Tensor, "N H B"], to_prediction: Float[Tensor, "N B"]
    ) -> Float[Tensor, "N H B"]:
        """Gradient of the features."""
        return (to_design * self.scale).addcmul_(to_prediction[:, None], self.mean)


def _batched(size: int, in_dims: tuple[int | None, ...], inputs: tuple[Any, ...]) -> list[Any]:
    """Every tensor with the mapped axis in front, the unmapped ones expanded."""
    return [
        value
        if not isinstance(value, Tensor)
        else value.expand(size, *value.shape)
        if axis is None
        else value.movedim(axis, 0)
        for value, axis in zip(inputs, in_dims, strict=True)
    ]
