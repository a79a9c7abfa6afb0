"""Observation models: from the base network's prediction to the density of a target."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mcb.predictive import CategoricalMixture, GaussianMixture

Predictive = GaussianMixture | CategoricalMixture


@runtime_checkable
class Likelihood(Protocol):
    """An observation model; a module where it has meta-parameters of its own."""

    num_offsets: int  # `L`: how many of its parameters a mode may shift

    def log_density(self, prediction: Tensor, target: Tensor, offset: Tensor) -> Tensor:
        """`(N,)` log densities in nats of `N` points, given their predictions `(N, O)`."""
        ...

    def mixture(self, log_weights: Tensor, prediction: Tensor, variance: Tensor, offset: Tensor) -> Predictive:
        """The predictive of a mixture of components, each a prediction with its own variance of the parameters."""
        ...

    def targets_as_inputs(self, target: Tensor) -> Tensor:
        """Targets as `(N, Y)` floats that an encoder can read."""
        ...

    def inputs_as_targets(self, y: Tensor) -> Tensor:
        """The way back."""
        ...

    def check_targets(self, target: Tensor) -> None:
        """Raises `ValueError` unless `target` holds what this model observes, the points along its first axis."""
        ...


class Gaussian(nn.Module):
    r"""$y \sim \mathcal N(f(x), \sigma^2)$ with one learned $\log\sigma$, which a mode may shift by its offset.

    `min_scale` bounds $\sigma$ from below, so that no mode can sharpen itself into a singular Gram matrix.

    Raises `ValueError` unless `0 < min_scale < init_scale`.
    """

    num_offsets = 1

    def __init__(self, init_scale: float = 1.0, min_scale: float = 1e-3) -> None:
        super().__init__()
        if not 0 < min_scale < init_scale:
            raise ValueError(f"init_scale={init_scale} must lie above min_scale={min_scale}, and that above 0")
        self.min_scale = min_scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(init_scale - min_scale)))

    def scale(self, offset: Float[Tensor, "*t L"]) -> Float[Tensor, "*t"]:
        r"""$\sigma$ of a mode, in units of y; that of every mode where the hypernetwork generates no offset."""
        return self.min_scale + (self.log_scale + offset.sum(-1)).exp()

    def log_density(
        self, prediction: Float[Tensor, "N O"], target: Float[Tensor, "N O"], offset: Float[Tensor, "L"]
    ) -> Float[Tensor, "N"]:
        """Sum over the outputs of the Gaussian log density, nats; `ValueError` where the counts of outputs differ."""
        check_num_outputs(prediction.shape[-1], target.shape[-1])
        scale = self.scale(offset)
        return (-0.5 * ((target - prediction) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def mixture(
        self,
        log_weights: Float[Tensor, "*t N"],
        prediction: Float[Tensor, "*t N Q O"],
        variance: Float[Tensor, "*t N Q O"],
        offset: Float[Tensor, "*t N L"],
    ) -> GaussianMixture:
        """Components with the variance of the parameters and that of the noise added."""
        noise = self.scale(offset)[..., None, None].square()
        return GaussianMixture(log_weights, prediction, 0.5 * (variance + noise).log())

    def targets_as_inputs(self, target: Float[Tensor, "N O"]) -> Float[Tensor, "N O"]:
        """The targets themselves."""
        return target

    def inputs_as_targets(self, y: Float[Tensor, "N O"]) -> Float[Tensor, "N O"]:
        """The same."""
        return y

    def check_targets(self, target: Tensor) -> None:
        """Raises `ValueError` unless these are `(N, O)` floats."""
        if target.ndim != 2 or not target.is_floating_point():
            raise ValueError(
                f"targets of shape {tuple(target.shape)} and type {target.dtype} must be (points, outputs) floats: "
                "give y[:, None] where there is one output"
            )


class Categorical(nn.Module):
    """Classes with probabilities `softmax(prediction)`; targets are integers in `0..num_classes - 1`.

    Raises `ValueError` for fewer than two classes.
    """

    num_offsets = 0

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes} must be at least 2")
        self.num_classes = num_classes

    def log_density(
        self, prediction: Float[Tensor, "N O"], target: Int[Tensor, "N"], offset: Float[Tensor, "0"]
    ) -> Float[Tensor, "N"]:
        """Log probability of each target's class, nats."""
        return prediction.log_softmax(-1).gather(-1, target[:, None])[:, 0]

    def mixture(
        self,
        log_weights: Float[Tensor, "*t N"],
        prediction: Float[Tensor, "*t N Q O"],
        variance: Float[Tensor, "*t N Q O"],
        offset: Float[Tensor, "*t N 0"],
    ) -> CategoricalMixture:
        """Components with their class probabilities; particles carry no variance of their own."""
        return CategoricalMixture(log_weights, prediction)

    def targets_as_inputs(self, target: Int[Tensor, "N"]) -> Float[Tensor, "N classes"]:
        """One-hot rows."""
        return (target[:, None] == torch.arange(self.num_classes, device=target.device)).float()

    def inputs_as_targets(self, y: Float[Tensor, "N classes"]) -> Int[Tensor, "N"]:
        """The class of each row."""
        return y.argmax(-1)

    def check_targets(self, target: Tensor) -> None:
        """Raises `ValueError` unless these are `(N,)` integers in `0..num_classes - 1`, masked places included."""
        if target.ndim != 1 or target.dtype != torch.long:
            raise ValueError(
                f"targets of shape {tuple(target.shape)} and type {target.dtype} must be (points,) classes: "
                "give integers of type torch.int64"
            )
        if (outside := target[(target < 0) | (target >= self.num_classes)]).numel():
            raise ValueError(f"class {outside[0].item()} must lie in 0..{self.num_classes - 1}, in masked places too")


def check_num_outputs(num_outputs: int, num_targets: int) -> None:
    """Raises `ValueError` where they differ: broadcasting would train on something else in silence."""
    if num_outputs != num_targets:
        raise ValueError(f"the model has {num_outputs} outputs and a point has {num_targets} targets: make them equal")
