"""`mode_heads` for a CPU: a few modes at a time, whose features stay in the cache between one step and the next."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from mcb.inference import mode_heads_kernels as kernels
from mcb.inference.lanes import LANES

_CACHED = 3 * 2**18  # bytes of features at a time: they and what is made of them fit a core's own cache


class ModeHeads(NamedTuple):
    """Of each of `K` modes: its prior over a head of one output, its noise, and the last layer of its features."""

    mean: Float[Tensor, "K H"]
    scale: Float[Tensor, "K H"]
    bias_mean: Float[Tensor, "K"]
    bias_variance: Float[Tensor, "K"]
    noise_variance: Float[Tensor, "K"]
    layer_weight: Float[Tensor, "K H I"]
    layer_bias: Float[Tensor, "K H"]


class Kept(NamedTuple):
    """What the derivative wants of the forward pass; the tasks in `B` tiles of `L`. Features are computed again."""

    precision: Float[Tensor, "K S S B L"]
    weights: Float[Tensor, "K S B L"]


def forward(
    heads: ModeHeads,
    num_rectified: int,
    hidden: Float[Tensor, "T N I"],
    y: Float[Tensor, "T S"],
    mask: Bool[Tensor, "T S"],
    gram_dtype: torch.dtype,
    rounding: float,
) -> tuple[Tensor, Tensor, Tensor, Kept]:
    """Log evidence `(K, T)`, prediction and variance `(K, T, Q)`, all float64, and what `backward` wants."""
    (num_tasks, num_points, _), num_support = hidden.shape, y.shape[1]
    (num_modes, num_features, _), num_query = heads.layer_weight.shape, num_points - num_support
    inputs, layers = _inputs(hidden), _layers(heads)
    targets, present = _tiles(y.mT.double()), _tiles(mask.mT.double())
    shapes = ((), (num_query,), (num_query,), (num_support, num_support), (num_support,))
    results = [torch.empty(num_modes, *shape, *targets.shape[1:], dtype=torch.float64) for shape in shapes]
    shape = (num_features, num_points, *targets.shape[1:])
    by_mode = _arrays(*(leaf.to(gram_dtype) for leaf in heads[:4]), heads.noise_variance.double())
    by_task, written = _arrays(targets, present), _arrays(*results)
    for modes, features in _few_modes(num_modes, shape, gram_dtype):
        _features(layers[modes], inputs, num_rectified, features)
        kernels.forward(rounding, *_of(modes, by_mode), *_arrays(features), *by_task, *_of(modes, written))
    evidence, prediction, variance = (result.flatten(-2)[..., :num_tasks] for result in results[:3])
    return evidence, prediction.mT, variance.mT, Kept(*results[3:])


def backward(
    heads: ModeHeads,
    num_rectified: int,
    hidden: Float[Tensor, "T N I"],
    kept: Kept,
    gram_dtype: torch.dtype,
    to_evidence: Float[Tensor, "K T"],
    to_prediction: Float[Tensor, "K T Q"],
    to_variance: Float[Tensor, "K T Q"],
) -> tuple[ModeHeads, Float[Tensor, "T N I"], Float[Tensor, "T S"]]:
    """Gradients of the heads, of the hidden values and of y, given those of the results."""
    (num_tasks, num_points, _), (num_modes, num_features, _) = hidden.shape, heads.layer_weight.shape
    inputs, layers = _inputs(hidden), _layers(heads)
    transposed = inputs[:-1].mT.contiguous()
    weight = heads.layer_weight.contiguous()
    to_inputs, to_weight, to_bias = torch.zeros_like(inputs[:-1]), torch.empty_like(weight), weight.new_empty(weight.shape[:2])
    to_prior = [torch.empty_like(leaf, dtype=gram_dtype) for leaf in heads[:4]]
    to_noise = torch.empty_like(heads.noise_variance, dtype=torch.float64)
    to_y = torch.zeros(kept.weights.shape[1:], dtype=torch.float64)
    mean, scale, _, bias_variance = (leaf.to(gram_dtype) for leaf in heads[:4])
    to_results = [_tiles(gradient) for gradient in (to_evidence, to_prediction.mT, to_variance.mT)]
    by_mode = _arrays(mean, scale, bias_variance)
    given, written = _arrays(*kept, *to_results), _arrays(*to_prior, to_noise)
    shape = (num_features, num_points, *to_y.shape[1:])
    buffer = torch.empty(0)
    for modes, features in _few_modes(num_modes, shape, gram_dtype):
        _features(layers[modes], inputs, num_rectified, features)
        if buffer.shape != features.shape:
            buffer = torch.empty_like(features)
        to_sums = buffer
        kernels.backward(
            *_of(modes, by_mode), *_arrays(features), *_of(modes, given), *_of(modes, written), *_arrays(to_sums, to_y)
        )
        to_smooth, to_rectified = _by_activation(to_sums, num_rectified)
        smooth, rectified = _by_activation(features, num_rectified)
        torch.ops.aten.tanh_backward.grad_input(to_smooth, smooth, grad_input=to_smooth)
        torch.ops.aten.threshold_backward.grad_input(to_rectified, rectified, 0, grad_input=to_rectified)
        flat = to_sums.view(-1, inputs.shape[1]).to(inputs)
        torch.mm(flat, transposed, out=to_weight[modes].flatten(0, 1))
        torch.sum(flat, 1, out=to_bias[modes].view(-1))
        to_inputs.addmm_(weight[modes].flatten(0, 1).mT, flat)
    to_hidden = to_inputs.view(hidden.shape[2], hidden.shape[1], -1)[..., :num_tasks].permute(2, 1, 0)
    gradients = ModeHeads._make([*to_prior, to_noise, to_weight, to_bias])
    return gradients, to_hidden, to_y.flatten(1)[:, :num_tasks].mT


def _inputs(hidden: Float[Tensor, "T N I"]) -> Float[Tensor, "J n"]:
    """One column for each point, the tasks of a tile innermost, and a row of ones that meets the layers' biases."""
    rows = _tiles(hidden.permute(2, 1, 0)).flatten(1)
    return torch.cat([rows, rows.new_ones(1, rows.shape[1])])


def _layers(heads: ModeHeads) -> Float[Tensor, "K H J"]:
    return torch.cat([heads.layer_weight, heads.layer_bias[..., None]], dim=-1)


def _matrix_product(a: Float[Tensor, "m j"], b: Float[Tensor, "j n"], result: Float[Tensor, "m n"]) -> None:
    """Into `result`, which may be of another type."""
    if result.dtype == b.dtype:
        torch.mm(a, b, out=result)
    else:
        result.copy_(a @ b)


def _tiles(values: Float[Tensor, "*a T"]) -> Float[Tensor, "*a B L"]:
    """The last axis in tiles, filled up with zeros."""
    missing = -values.shape[-1] % LANES
    return pad(values, (0, missing)).unflatten(-1, ((values.shape[-1] + missing) // LANES, LANES)).contiguous()


def _few_modes(num_modes: int, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """A few modes at a time, with the place for their features `(M, *shape)`, the same again and again."""
    count = max(1, _CACHED // max(1, math.prod(shape) * dtype.itemsize))
    features = torch.empty(min(count, num_modes), *shape, dtype=dtype)
    for first in range(0, num_modes, count):
        yield slice(first, first + count), features[: num_modes - first]


def _features(layers: Tensor, inputs: Tensor, num_rectified: int, features: Tensor) -> None:
    _matrix_product(layers.flatten(0, 1), inputs, features.view(-1, inputs.shape[1]))
    smooth, rectified = _by_activation(features, num_rectified)
    smooth.tanh_()
    rectified.relu_()


def _by_activation(features: Float[Tensor, "M H N B L"], num_rectified: int) -> tuple[Tensor, ...]:
    """Views of the smooth features and of the rectified ones."""
    return features.tensor_split((features.shape[1] - num_rectified,), dim=1)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _of(modes: slice, arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [array[modes] for array in arrays]
