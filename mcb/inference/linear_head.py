r"""A linear head with Gaussian prior, conditioned on a support set and asked at query points, for many tasks at once.

With features $\phi$, head prior $\mathcal N(m, \mathrm{diag}\,s^2)$, bias prior $\mathcal N(b, v)$ and noise variance
$\sigma^2$, an output is a Gaussian process with mean $m^\top\phi + b$ and kernel
$k(\phi, \phi') = \phi^\top \mathrm{diag}(s^2)\, \phi' + v$. All of it is one node of the autograd graph with a
derivative worked out by hand: as dozens of nodes, each small step would carry every task and mode through memory again.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mcb.inference.batch_last import innermost, inverse_and_log_det, outermost, product, row_products

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
    support_features: Float[Tensor, "*t S H"],
    y: Float[Tensor, "*t S"],
    mask: Bool[Tensor, "*t S"],
    noise_variance: Float[Tensor, "*t"],
    query_features: Float[Tensor, "*t Q H"],
    gram_dtype: torch.dtype,
) -> HeadAnswer:
    """One output's evidence and predictions, its Gram matrix formed in `gram_dtype` and inverted in float64.

    It may be nested in any number of `vmap`s; it is differentiable once, in everything but the mask.
    """
    inputs = (*prior, torch.cat([support_features, query_features], -2), y, noise_variance, mask, gram_dtype)
    return HeadAnswer(*cast("tuple[Tensor, ...]", _Answer.apply(*inputs))[:3])


class _Answer(torch.autograd.Function):
    """Returns the three of `HeadAnswer`, then what the derivative needs: precision and weights, 0 at masked points."""

    @staticmethod
    def forward(mean, scale, bias_mean, bias_variance, features, y, noise_variance, mask, gram_dtype):
        head = _Head((mean, scale, bias_mean, bias_variance), features, mask.shape[-1], gram_dtype)
        present = innermost(mask, 1)
        both = present[:, None] & present
        gram = torch.where(both, head.covariance(head.support, head.support), 0)
        diagonal = gram.diagonal().mT
        rounding = ROUNDING * torch.finfo(gram_dtype).eps * diagonal.sum(0)
        diagonal += torch.where(present, innermost(noise_variance, 0) + rounding, 1.0)
        inverse, log_det = inverse_and_log_det(gram)
        precision = torch.where(both, inverse, 0)
        prior_prediction = head.prior_prediction()
        residual = torch.where(present, innermost(y, 1) - prior_prediction[: len(present)], 0).double()
        weights = product(precision, residual[:, None])[:, 0]
        log_evidence = -0.5 * ((residual * weights).sum(0) + log_det + present.sum(0) * math.log(2 * math.pi))
        cross = head.covariance(head.support, head.query)
        prediction = prior_prediction[len(present) :] + (cross * weights[:, None]).sum(0)
        prior_variance = head.query.square().sum(1) + head.bias_variance
        variance = prior_variance - (cross * product(precision, cross)).sum(0)
        results = (log_evidence, prediction, variance, precision, weights)
        return tuple(outermost(result, features.shape[:-2]) for result in results)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:5], *output[3:])
        ctx.mark_non_differentiable(*output[3:])
        ctx.gram_dtype = inputs[-1]

    @staticmethod
    def backward(ctx, to_evidence, to_prediction, to_variance, *_):
        *prior, features, precision, weights = ctx.saved_tensors
        dtype = ctx.gram_dtype
        head = _Head(prior, features, weights.shape[-1], dtype)
        inverse, w = innermost(precision, 2), innermost(weights, 1)
        half, to_prediction, to_variance = (
            0.5 * innermost(to_evidence, 0),
            innermost(to_prediction, 1),
            innermost(to_variance, 1),
        )
        gain = product(inverse, head.covariance(head.support, head.query))
        by_weights = (gain * to_prediction).sum(1)
        to_residual = by_weights - 2 * half * w
        to_cross = w[:, None] * to_prediction - 2 * gain * to_variance
        to_gram = (half * w - by_weights)[:, None] * w
        to_gram = 0.5 * (to_gram + to_gram.transpose(0, 1)) - half * inverse + row_products(gain * to_variance, gain)
        of_gram, of_cross, of_variance = (2 * to_gram).to(dtype), to_cross.to(dtype), (2 * to_variance).to(dtype)
        to_design = torch.cat(
            [
                product(of_gram, head.support) + product(of_cross, head.query),
                product(of_cross.transpose(0, 1), head.support).addcmul_(of_variance[:, None], head.query),
            ]
        )
        to_prior_prediction = torch.cat([-to_residual, to_prediction])
        to_mean, to_scale, to_features = head.gradients(to_design, to_prior_prediction.to(dtype))
        gradients = (
            to_mean,
            to_scale,
            to_prior_prediction.sum(0),
            to_gram.sum((0, 1)) + to_cross.sum((0, 1)) + to_variance.sum(0),
            to_features,
            to_residual,
            to_gram.diagonal().sum(-1),
        )
        return *(outermost(gradient, features.shape[:-2]) for gradient in gradients), None, None

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


class _Head:
    """Features and designs, which are features times the prior's scale, of all points, the batch innermost."""

    def __init__(self, prior: Sequence[Tensor], features: Tensor, num_support: int, dtype: torch.dtype) -> None:
        mean, scale, bias_mean, bias_variance = prior
        self.mean, self.scale = innermost(mean, 1).to(dtype), innermost(scale, 1).to(dtype)
        self.bias_mean, self.bias_variance = innermost(bias_mean, 0).to(dtype), innermost(bias_variance, 0).to(dtype)
        self.features = innermost(features, 2).to(dtype)
        design = self.features * self.scale
        self.support, self.query = design[:num_support], design[num_support:]

    def covariance(self, a: Float[Tensor, "N H B"], b: Float[Tensor, "M H B"]) -> Float[Tensor, "N M B"]:
        """Prior covariances of the outputs at two sets of designs, float64."""
        return (row_products(a, b) + self.bias_variance).double()

    def prior_prediction(self) -> Float[Tensor, "N B"]:
        """Of the mean head, at all points."""
        return row_products(self.features, self.mean[None])[:, 0] + self.bias_mean

    def gradients(
        self, to_design: Float[Tensor, "N H B"], to_prior_prediction: Float[Tensor, "N B"]
    ) -> tuple[Float[Tensor, "H B"], Float[Tensor, "H B"], Float[Tensor, "N H B"]]:
        """Of mean, scale and features, given those of the design (which is overwritten) and the prior prediction."""
        to_mean, to_scale = torch.zeros_like(self.mean), torch.zeros_like(self.scale)
        for point, of_design, of_prediction in zip(self.features, to_design, to_prior_prediction, strict=True):
            to_mean.addcmul_(of_prediction, point)
            to_scale.addcmul_(of_design, point)
        to_features = to_design.mul_(self.scale).addcmul_(to_prior_prediction[:, None], self.mean)
        return to_mean, to_scale, to_features
