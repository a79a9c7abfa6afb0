"""A multilayer perceptron whose last layer is a linear head on its features."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "silu": nn.functional.silu,
}


class MLP(nn.Module):
    """`head(features(x))` with `features` a stack of linear layers, each followed by the activation.

    The last entry of `hidden` is the number of features, of which the last `num_rectified` are rectified linear
    whatever the activation: beside smooth features, each can put a kink where a linear function of the layer below
    crosses zero. The biases of the first layer are drawn over the width of the inputs' usual range, so that its units
    start spread over the inputs and not all at the origin.

    With a `bottleneck` the head sees that many linear combinations of the features. A prior with independent weights on
    these is one of low rank, with any correlations, on the features: a kink in a line is a step in one weight that
    comes with a step in another.

    Raises `ValueError` for no layer, an unknown activation, more rectified features than features, or a negative
    bottleneck.

    >>> MLP(1, 1, hidden=(8, 4))(torch.zeros(5, 1)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        x_size: int,
        y_size: int,
        hidden: Sequence[int] = (40, 40, 16),
        activation: str = "tanh",
        num_rectified: int = 0,
        bottleneck: int = 0,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden=() must name at least one layer: its last entry is the number of features")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r} must be one of {', '.join(ACTIVATIONS)}")
        if not 0 <= num_rectified <= hidden[-1]:
            raise ValueError(f"num_rectified={num_rectified} must lie in 0..{hidden[-1]}, the number of features")
        if bottleneck < 0:
            raise ValueError(f"bottleneck={bottleneck} must be at least 0, which stands for none")
        sizes = [x_size, *hidden]
        layers = [nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)
        self.combine = nn.Linear(sizes[-1], bottleneck, bias=False) if bottleneck else None
        self.head = nn.Linear(bottleneck or sizes[-1], y_size)
        self.activation = ACTIVATIONS[activation]
        self.num_rectified = num_rectified
        if self.combine is not None:
            nn.init.normal_(self.combine.weight, std=sizes[-1] ** -0.5)
        for layer in layers:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.normal_(layer.bias, std=2.0 if layer is layers[0] else 0.1)

    def features(self, x: Float[Tensor, "N X"]) -> Float[Tensor, "N H"]:
        """What the head is linear in."""
        features = self.activate_features(self.layers[-1](self.hidden(x)))
        return features if self.combine is None else self.combine(features)

    def hidden(self, x: Float[Tensor, "N X"]) -> Float[Tensor, "N I"]:
        """What the last layer of the features sees."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return x

    def activate_features(self, x: Float[Tensor, "*N H"]) -> Float[Tensor, "*N H"]:
        """What becomes of the last layer's sums."""
        return smooth_and_rectified(x, self.activation, self.num_rectified)

    def forward(self, x: Float[Tensor, "N X"]) -> Float[Tensor, "N O"]:
        """Predictions of `N` points."""
        return self.head(self.features(x))


def smooth_and_rectified(
    sums: Float[Tensor, "*N H"], activation: Callable[[Tensor], Tensor], num_rectified: int
) -> Float[Tensor, "*N H"]:
    """The activation of each sum, but for the last `num_rectified` of the `H`, which are rectified."""
    if not num_rectified:
        return activation(sums)
    smooth, rectified = sums.tensor_split((-num_rectified,), dim=-1)
    return torch.cat([activation(smooth), torch.relu(rectified)], dim=-1)


def is_plain_mlp(module: nn.Module) -> TypeGuard[MLP]:
    """Whether calling the module does no more than `MLP` says, so that its layers may be computed without a call.

    No subclass, whose methods may do something else, and nothing that hooks may see or change.
    """
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    return type(module) is MLP and not hooked
