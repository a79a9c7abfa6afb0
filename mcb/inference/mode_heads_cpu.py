"""`mode_heads` for a CPU: a few modes at a time, whose features stay in the cache between one step and the next."""

import math
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from mcb.inference import mode_heads_kernels as kernels
from mcb.inference.lanes import LANES

_CACHED = 3 * 2**18  # bytes of features at a time, but at least those of one mode for all tasks: what a cache holds


class ModeHeads(NamedTuple):
    """Of each of `K` modes: its prior over a head of one output, its noise, and the last layer of its features.

    The head has `F` features: `R` linear combinations of the layer's `H` values, or these where `R` is 0.
    """

    mean: Float[Tensor, "K F"]
    scale: Float[Tensor, "K F"]
    bias_mean: Float[Tensor, "K"]
    bias_variance: Float[Tensor, "K"]
    noise_variance: Float[Tensor, "K"]
    layer_weight: Float[Tensor, "K H I"]
    layer_bias: Float[Tensor, "K H"]
    combine: Float[Tensor, "K R H"]


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
    (num_modes, num_tasks), num_support = (len(heads.mean), len(hidden)), y.shape[1]
    num_query = hidden.shape[1] - num_support
    targets, present = _tiles(y.mT.double()), _tiles(mask.mT.double())
    shapes = ((), (num_query,), (num_query,), (num_support, num_support), (num_support,))
    results = [torch.empty(num_modes, *shape, *targets.shape[1:], dtype=torch.float64) for shape in shapes]
    by_mode = _arrays(*(leaf.to(gram_dtype) for leaf in heads[:4]), heads.noise_variance.double())
    by_task, written = _arrays(targets, present), _arrays(*results)
    for modes, features in _Layers(heads, num_rectified, hidden, gram_dtype):
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
    to_prior = [torch.empty(leaf.shape, dtype=gram_dtype) for leaf in heads[:4]]
    to_noise = torch.empty(heads.noise_variance.shape, dtype=torch.float64)
    to_y = torch.zeros(kept.weights.shape[1:], dtype=torch.float64)
    to_results = (_tiles(gradient) for gradient in (to_evidence, to_prediction.mT, to_variance.mT))
    mean, scale, _, bias_variance = (leaf.to(gram_dtype) for leaf in heads[:4])
    prior, given = _arrays(mean, scale, bias_variance), _arrays(*kept, *to_results)
    written, of_y = _arrays(*to_prior, to_noise), _arrays(to_y)
    layers = _Layers(heads, num_rectified, hidden, gram_dtype)
    gradients = _LayerGradients(layers)
    for modes, features in layers:
        to_features = gradients.place(features)
        through = _arrays(features), _of(modes, given), _of(modes, written), _arrays(to_features)
        kernels.backward(*_of(modes, prior), *chain(*through), *of_y)
        gradients.add(modes, to_features)
    to_heads = ModeHeads._make([*to_prior, to_noise, gradients.of_weight, gradients.of_bias, gradients.of_combine])
    return to_heads, gradients.of_hidden(hidden.shape), to_y.flatten(1)[:, : len(hidden)].mT


class _Layers:
    """The features of a few modes at a time, at every point of every task; always in the same place."""

    def __init__(
        self, heads: ModeHeads, num_rectified: int, hidden: Float[Tensor, "T N I"], dtype: torch.dtype
    ) -> None:
        self.num_rectified = num_rectified
        self.weight, self.combine = heads.layer_weight.contiguous(), heads.combine.to(dtype).contiguous()
        self._layers = torch.cat([heads.layer_weight, heads.layer_bias[..., None]], dim=-1)
        hidden = _tiles(hidden.permute(2, 1, 0))
        self.hidden = hidden.flatten(1)
        self._inputs = torch.cat([self.hidden, torch.ones_like(self.hidden[:1])])  # a row of ones meets the biases
        num_values, num_combined = self.weight.shape[1], self.combine.shape[1]
        points = hidden.shape[1:]
        count = max(1, _CACHED // max(1, num_values * math.prod(points) * dtype.itemsize))
        count = min(count, len(self.weight))
        self.values = torch.empty(count, num_values, *points, dtype=dtype)
        self._combined = torch.empty(count, num_combined, *points, dtype=dtype)

    def __iter__(self) -> Iterator[tuple[slice, Float[Tensor, "M F N B L"]]]:
        """Which modes, and their features; their layers' values lie in `values` meanwhile."""
        count, num_modes = len(self.values), len(self.weight)
        for first in range(0, num_modes, max(1, count)):
            modes, values = slice(first, first + count), self.values[: num_modes - first]
            sums, layers = values.flatten(0, 1).flatten(1), self._layers[modes].flatten(0, 1)
            if sums.dtype == layers.dtype:
                torch.mm(layers, self._inputs, out=sums)
            else:
                sums.copy_(layers @ self._inputs)
            smooth, rectified = self.by_activation(values)
            smooth.tanh_()
            rectified.relu_()
            combined = self._combined[: num_modes - first]
            if combined.shape[1]:
                torch.bmm(self.combine[modes], values.flatten(2), out=combined.flatten(2))
            yield modes, combined if combined.shape[1] else values

    def by_activation(self, values: Float[Tensor, "M H N B L"]) -> tuple[Tensor, ...]:
        """Views of the smooth values and of the rectified ones."""
        return values.tensor_split((values.shape[1] - self.num_rectified,), dim=1)


class _LayerGradients:
    """What the gradients of features say of the layers and of the hidden values."""

    def __init__(self, layers: _Layers) -> None:
        self._layers = layers
        self._points = layers.hidden.mT.contiguous()
        self._of_hidden = torch.zeros_like(layers.hidden)
        self._of_values, self._of_combined = torch.empty_like(layers.values), torch.empty(0)
        self.of_weight, self.of_combine = torch.empty_like(layers.weight), torch.empty_like(layers.combine)
        self.of_bias = layers.weight.new_empty(layers.weight.shape[:2])

    def place(self, features: Float[Tensor, "M F N B L"]) -> Float[Tensor, "M F N B L"]:
        """Where gradients of these features may be written."""
        if not self._layers.combine.shape[1]:
            return self._of_values[: len(features)]
        if len(self._of_combined) < len(features):
            self._of_combined = torch.empty_like(features)
        return self._of_combined[: len(features)]

    def add(self, modes: slice, to_features: Float[Tensor, "M F N B L"]) -> None:
        """Take the gradients of the features of the modes whose values are at hand, which are overwritten."""
        layers, to_values = self._layers, self._of_values[: len(to_features)]
        values, combine = layers.values[: len(to_features)], layers.combine[modes]
        if combine.shape[1]:
            torch.bmm(to_features.flatten(2), values.flatten(2).mT, out=self.of_combine[modes])
            torch.bmm(combine.mT, to_features.flatten(2), out=to_values.flatten(2))
        (smooth, rectified), (to_smooth, to_rectified) = map(layers.by_activation, (values, to_values))
        torch.ops.aten.tanh_backward.grad_input(to_smooth, smooth, grad_input=to_smooth)
        torch.ops.aten.threshold_backward.grad_input(to_rectified, rectified, 0, grad_input=to_rectified)
        to_sums = to_values.flatten(0, 1).flatten(1).to(self._points)
        torch.mm(to_sums, self._points, out=self.of_weight[modes].flatten(0, 1))
        torch.sum(to_sums, 1, out=self.of_bias[modes].view(-1))
        self._of_hidden.addmm_(layers.weight[modes].flatten(0, 1).mT, to_sums)

    def of_hidden(self, shape: torch.Size) -> Float[Tensor, "T N I"]:
        """Of hidden values of a shape, once all modes have been added."""
        num_tasks, num_points, size = shape
        return self._of_hidden.view(size, num_points, -1)[..., :num_tasks].permute(2, 1, 0)


def _tiles(values: Float[Tensor, "*a T"]) -> Float[Tensor, "*a B L"]:
    """The last axis in tiles, filled up with zeros."""
    missing = -values.shape[-1] % LANES
    return pad(values, (0, missing)).unflatten(-1, ((values.shape[-1] + missing) // LANES, LANES)).contiguous()


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _of(modes: slice, arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [array[modes] for array in arrays]
