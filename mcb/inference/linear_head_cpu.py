"""`linear_head` for a CPU: tensors in and out of the compiled `linear_head_kernels`."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mcb.inference import linear_head_kernels as kernels


def forward(
    prior: Sequence[Tensor],
    features: Float[Tensor, "B N H"],
    y: Float[Tensor, "B S"],
    noise_variance: Float[Tensor, "B"],
    mask: Float[Tensor, "B S"],
    rounding: float,
) -> tuple[Tensor, ...]:
    """Log evidence `(B,)`, prediction and variance `(B, Q)`, precision `(B, S, S)`, weights `(B, S)`, all float64."""
    count, num_support = y.shape
    num_query = features.shape[1] - num_support
    shapes = ((1,), (num_query,), (num_query,), (num_support, num_support), (num_support,))
    results = tuple(torch.empty((count, *shape), dtype=torch.float64) for shape in shapes)
    mean, scale, bias_mean, bias_variance = prior
    inputs = (mean, scale, bias_mean[:, None], bias_variance[:, None], features, y, noise_variance[:, None], mask)
    kernels.forward(rounding, *_arrays(*inputs, *results))
    return results[0][:, 0], *results[1:]


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
    mean, scale, _, bias_variance = prior
    count, num_features = mean.shape
    shapes = ((num_features,), (num_features,), (1,), (1,), features.shape[1:])
    gradients = [torch.empty((count, *shape), dtype=features.dtype) for shape in shapes]
    gradients += [torch.empty((count, size), dtype=torch.float64) for size in (weights.shape[1], 1)]
    given = (precision, weights, to_evidence[:, None], to_prediction, to_variance)
    kernels.backward(*_arrays(mean, scale, bias_variance[:, None], features, *given, *gradients))
    of_mean, of_scale, of_bias_mean, of_bias_variance, of_features, of_y, of_noise = gradients
    return of_mean, of_scale, of_bias_mean[:, 0], of_bias_variance[:, 0], of_features, of_y, of_noise[:, 0]


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)
