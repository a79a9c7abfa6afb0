"""`linear_head` in tensor operations, for any device: the batch is the innermost axis."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mcb.inference.batch_last import innermost, inverse_and_log_det, outermost, product, row_products


def forward(
    prior: Sequence[Tensor],
    features: Float[Tensor, "B N H"],
    y: Float[Tensor, "B S"],
    noise_variance: Float[Tensor, "B"],
    mask: Float[Tensor, "B S"],
    rounding: float,
) -> tuple[Tensor, ...]:
    """Log evidence `(B,)`, prediction and variance `(B, Q)`, precision `(B, S, S)`, weights `(B, S)`, all float64."""
    head = _Head(prior, features, mask.shape[-1])
    present = innermost(mask, 1).bool()
    both = present[:, None] & present
    gram = torch.where(both, head.covariance(head.support, head.support), 0)
    diagonal = gram.diagonal().mT
    diagonal += torch.where(present, noise_variance + rounding * diagonal.sum(0), 1.0)
    inverse, log_det = inverse_and_log_det(gram)
    precision = torch.where(both, inverse, 0)
    prior_prediction = head.prior_prediction()
    residual = torch.where(present, innermost(y, 1) - prior_prediction[: len(present)], 0).double()
    weights = product(precision, residual[:, None])[:, 0]
    log_evidence = -0.5 * ((residual * weights).sum(0) + log_det + present.double().sum(0) * math.log(2 * math.pi))
    cross = head.covariance(head.support, head.query)
    prediction = prior_prediction[len(present) :] + (cross * weights[:, None]).sum(0)
    prior_variance = head.query.square().sum(1) + head.bias_variance
    variance = prior_variance - (cross * product(precision, cross)).sum(0)
    results = (log_evidence, prediction, variance, precision, weights)
    return tuple(outermost(result, features.shape[:1]) for result in results)


def backward(
    prior: Sequence[Tensor],
    features: Float[Tensor, "B N H"],
    precision: Float[Tensor, "B S S"],
    weights: Float[Tensor, "B S"],
    to_evidence: Float[Tensor, "B"],
    to_prediction: Float[Tensor, "B Q"],
    to_variance: Float[Tensor, "B Q"],
) -> tuple[Tensor, ...]:
    """Gradients of the prior's four parts, the features, y and the noise variance, given those of the results."""
    head = _Head(prior, features, weights.shape[-1])
    inverse, w, half = innermost(precision, 2), innermost(weights, 1), 0.5 * to_evidence
    to_prediction, to_variance = innermost(to_prediction, 1), innermost(to_variance, 1)
    gain = product(inverse, head.covariance(head.support, head.query))
    by_weights = (gain * to_prediction).sum(1)
    to_residual = by_weights - 2 * half * w
    to_cross = w[:, None] * to_prediction - 2 * gain * to_variance
    to_gram = (half * w - by_weights)[:, None] * w
    to_gram = 0.5 * (to_gram + to_gram.transpose(0, 1)) - half * inverse + row_products(gain * to_variance, gain)
    of_gram, of_cross, of_variance = (x.to(features) for x in (2 * to_gram, to_cross, 2 * to_variance))
    to_support = product(of_gram, head.support) + product(of_cross, head.query)
    to_query = product(of_cross.transpose(0, 1), head.support).addcmul_(of_variance[:, None], head.query)
    to_prior_prediction = torch.cat([-to_residual, to_prediction])
    to_mean, to_scale, to_features = head.gradients(torch.cat([to_support, to_query]), to_prior_prediction.to(features))
    gradients = (
        to_mean,
        to_scale,
        to_prior_prediction.sum(0),
        to_gram.sum((0, 1)) + to_cross.sum((0, 1)) + to_variance.sum(0),
        to_features,
        to_residual,
        to_gram.diagonal().sum(-1),
    )
    return tuple(outermost(gradient, features.shape[:1]) for gradient in gradients)


class _Head:
    """Features and designs, which are features times the prior's scale, of all points, the batch innermost."""

    def __init__(self, prior: Sequence[Tensor], features: Tensor, num_support: int) -> None:
        mean, scale, bias_mean, bias_variance = prior
        self.mean, self.scale = innermost(mean, 1), innermost(scale, 1)
        self.bias_mean, self.bias_variance = bias_mean, bias_variance
        self.features = innermost(features, 2)
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
