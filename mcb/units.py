"""The user's units and the learner's: tasks go in by one affine map, what is predicted comes back by its inverse."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mcb.likelihoods import Predictive
from mcb.predictive import GaussianMixture

_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class Units:
    r"""Training saw $(x - \bar x_f) / s_f$ and $(y - \bar y_f) / s_f$ for a task of family $f$; float64.

    Families that the learner was trained on in their own units are one nameless family of mean 0 and scale 1
    (`Units.identity`).
    """

    families: tuple[str, ...]
    x_mean: Float[Tensor, "F X"]
    x_scale: Float[Tensor, "F X"]
    y_mean: Float[Tensor, "F Y"]
    y_scale: Float[Tensor, "F Y"]

    @classmethod
    def identity(cls, x_size: int, y_size: int) -> "Units":
        """The learner's units are the user's."""
        zero_x, zero_y = torch.zeros(1, x_size).double(), torch.zeros(1, y_size).double()
        return cls(("",), zero_x, zero_x + 1, zero_y, zero_y + 1)

    @classmethod
    def from_tree(cls, tree: Mapping[str, Sequence]) -> "Units":
        """From what `tree` gave; raises KeyError, TypeError or ValueError for another tree."""
        names = ("x_mean", "x_scale", "y_mean", "y_scale")
        return cls(tuple(tree["families"]), *(torch.tensor(tree[name], dtype=torch.float64) for name in names))

    def tree(self) -> dict[str, list]:
        """As plain values, exact in JSON."""
        values = {"x_mean": self.x_mean, "x_scale": self.x_scale, "y_mean": self.y_mean, "y_scale": self.y_scale}
        return {"families": list(self.families), **{name: value.tolist() for name, value in values.items()}}

    @property
    def is_identity(self) -> bool:
        """Whether nothing is to be done."""
        return self.families == ("",)

    def inputs(self, x: Float[Tensor, "B N X"], family: Int[Tensor, "B"]) -> Float[Tensor, "B N X"]:
        """Inputs for the learner; one that was not measured (NaN) is 0, its family's mean, as in training."""
        return ((x - self.x_mean[family, None]) / self.x_scale[family, None]).nan_to_num(nan=0.0)

    def targets(self, y: Tensor, family: Int[Tensor, "B"]) -> Tensor:
        """Targets `(B, N, Y)` for the learner; classes are left alone."""
        return (y - self.y_mean[family, None]) / self.y_scale[family, None] if y.is_floating_point() else y

    def predictions(self, predictive: Predictive, family: Int[Tensor, "B"]) -> Predictive:
        """The predictive in the user's units, float64."""
        if not isinstance(predictive, GaussianMixture):
            return type(predictive)(*(leaf.double() for leaf in predictive))
        scale = self.y_scale[family, None, None]
        mean = self.y_mean[family, None, None] + scale * predictive.mean.double()
        return GaussianMixture(predictive.log_weights.double(), mean, predictive.log_scale.double() + scale.log())

    def log_volume(self, count: Int[Tensor, "B"], family: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        r"""What a log density of `count` targets loses on the way to the user's units: $n \sum \log s_f$."""
        return count * self.y_scale[family].log().sum(-1)

    def log_input_density(self, x: Float[Tensor, "B N X"], family: Int[Tensor, "B"]) -> Float[Tensor, "B N"]:
        """Of each point's measured inputs, as independent normals of their family's mean and scale."""
        scale = self.x_scale[family, None]
        z = (x - self.x_mean[family, None]) / scale
        return (-0.5 * z.square() - scale.log() - 0.5 * _LOG_2PI).nan_to_num(nan=0.0).sum(-1)
