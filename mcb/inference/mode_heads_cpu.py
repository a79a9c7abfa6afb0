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
    (num_modes, num_tasks), num_support = (len(heads.mean), len(hidden)), y.shape[1]
    num_query = hidden.shape[1] - num_support
    targets, present = _tiles(y.mT.double()), _tiles(mask.mT.double())
    shapes = ((), (num_query,), (num_query,), (num_support, num_support), (num_support,))
    results = [torch.empty(num_modes, *shape, *targets.shape[1:], dtype=torch.float64) for shape in shapes]
    by_mode = _arrays(*(leaf.to(gram_dtype) for leaf in heads[:4]), heads.noise_variance.double())
    by_task, written = _arrays(targets, present), _arrays(*results)
    for modes, features in _Features(heads, num_rectified, hidden, gram_dtype):
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
    all_features = _Features(heads, num_rectified, hidden, gram_dtype)
    gradients = _FeatureGradients(all_features)
    for modes, features in all_features:
        to_features = gradients.place(features)
        through = _arrays(features), _of(modes, given), _of(modes, written), _arrays(to_features)
        kernels.backward(*_of(modes, prior), *chain(*through), *of_y)
        gradients.add(modes, features, to_features)
    to_heads = ModeHeads._make([*to_prior, to_noise, gradients.of_weight, gradients.of_bias])
    return to_heads, gradients.of_hidden(hidden.shape), to_y.flatten(1)[:, : len(hidden)].mT


class _Features:
    """The features of a few modes at a time, at every point of every task; always in the same place."""

    def __init__(
        self, heads: ModeHeads, num_rectified: int, hidden: Float[Tensor, "T N I"], dtype: torch.dtype
    ) -> None:
        self.num_rectified = num_rectified
        self.weight = heads.layer_weight.contiguous()
        self._layers = torch.cat([heads.layer_weight, heads.layer_bias[..., None]], dim=-1)
        hidden = _tiles(hidden.permute(2, 1, 0))
        self.hidden = hidden.flatten(1)
        self._inputs = torch.cat([self.hidden, torch.ones_like(self.hidden[:1])])  # a row of ones meets the biases
        shape = (self.weight.shape[1], *hidden.shape[1:])
        count = max(1, _CACHED // max(1, math.prod(shape) * dtype.itemsize))
        self._place = torch.empty(min(count, len(self.weight)), *shape, dtype=dtype)

    def __iter__(self) -> Iterator[tuple[slice, Float[Tensor, "M H N B L"]]]:
        """Which modes, and their features."""
        count, num_modes = len(self._place), len(self.weight)
        for first in range(0, num_modes, max(1, count)):
            modes, features = slice(first, first + count), self._place[: num_modes - first]
            sums, layers = features.view(-1, self._inputs.shape[1]), self._layers[modes].flatten(0, 1)
            if sums.dtype == layers.dtype:
                torch.mm(layers, self._inputs, out=sums)
            else:
                sums.copy_(layers @ self._inputs)
            smooth, rectified = self.by_activation(features)
            smooth.tanh_()
            rectified.relu_()
            yield modes, features

    def by_activation(self, features: Float[Tensor, "M H N B L"]) -> tuple[Tensor, ...]:
        """Views of the smooth features and of the rectified ones."""
        return features.tensor_split((features.shape[1] - self.num_rectified,), dim=1)


class _FeatureGradients:
    """What the gradients of features say of the layers and of the hidden values."""

    def __init__(self, features: _Features) -> None:
        self._features = features
        self._points = features.hidden.mT.contiguous()
        self._of_hidden = torch.zeros_like(features.hidden)
        self._place = torch.empty(0)
        self.of_weight = torch.empty_like(features.weight)
        self.of_bias = features.weight.new_empty(features.weight.shape[:2])

    def place(self, features: Float[Tensor, "M H N B L"]) -> Float[Tensor, "M H N B L"]:
        """Where gradients of these features may be written."""
        if self._place.shape != features.shape:
            self._place = torch.empty_like(features)
        return self._place

    def add(self, modes: slice, features: Tensor, to_features: Float[Tensor, "M H N B L"]) -> None:
        """Take the gradients of the features of some modes, which are overwritten."""
        (smooth, rectified), (to_smooth, to_rectified) = map(self._features.by_activation, (features, to_features))
        torch.ops.aten.tanh_backward.grad_input(to_smooth, smooth, grad_input=to_smooth)
        torch.ops.aten.threshold_backward.grad_input(to_rectified, rectified, 0, grad_input=to_rectified)
        to_sums = to_features.view(-1, len(self._points)).to(self._points)
        torch.mm(to_sums, self._points, out=self.of_weight[modes].flatten(0, 1))
        torch.sum(to_sums, 1, out=self.of_bias[modes].view(-1))
        self._of_hidden.addmm_(self._features.weight[modes].flatten(0, 1).mT, to_sums)

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
