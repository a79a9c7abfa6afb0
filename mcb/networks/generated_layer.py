"""The last layer of an MLP's features, where that is what a mode generates."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from mcb.networks.functional import BaseNetwork, unflatten
from mcb.networks.mlp import ACTIVATIONS, is_plain_mlp, smooth_and_rectified


class GeneratedLayer(NamedTuple):
    """`R` linear combinations of the values `tanh(weight hidden + bias)`, the last `num_rectified` rectified instead.

    Where `R` is 0 it is the `H` values themselves.
    """

    weight: Float[Tensor, "H I"]
    bias: Float[Tensor, "H"]
    combine: Float[Tensor, "R H"]
    num_rectified: int

    def features(self, hidden: Float[Tensor, "*N I"]) -> Float[Tensor, "*N F"]:
        """What the layer makes of hidden values; `F` is `R`, or `H` where `R` is 0."""
        sums = linear(hidden, self.weight, self.bias)
        values = smooth_and_rectified(sums, torch.tanh, self.num_rectified)
        return linear(values, self.combine) if len(self.combine) else values


def generated_layer(network: BaseNetwork, conditional: Float[Tensor, "C"]) -> GeneratedLayer | None:
    """That of a plain MLP with such an activation, of which `conditional` is this layer and no more; else None.

    What lies below it is then `network.module.hidden(x)`, the same for all modes.
    """
    mlp = network.module
    if not is_plain_mlp(mlp) or mlp.activation not in (ACTIVATIONS["tanh"], ACTIVATIONS["relu"]):
        return None
    weight, bias = (f"layers.{len(mlp.layers) - 1}.{leaf}" for leaf in ("weight", "bias"))
    if set(network.conditional_shapes) != {weight, bias} | (set() if mlp.combine is None else {"combine.weight"}):
        return None
    values = unflatten(conditional, network.conditional_shapes)
    combine = values.get("combine.weight", conditional.new_zeros(0, len(values[bias])))
    all_rectified = mlp.activation is ACTIVATIONS["relu"]
    num_rectified = len(values[bias]) if all_rectified else mlp.num_rectified
    return GeneratedLayer(values[weight], values[bias], combine, num_rectified)
