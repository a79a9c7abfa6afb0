"""What is predicted at a user's query points, as numpy arrays."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mcb.given import Numbers, classes, points
from mcb.likelihoods import Predictive
from mcb.predictive import CategoricalMixture, GaussianMixture

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Prediction:
    """The predictive at Q query points, in the units of the y that the task was adapted to; float64 arrays.

    Shapes are `(Q,)` where a point has one target and `(Q, Y)` where it has several; those of many tasks have a leading
    T, and NaN behind the end of a task with fewer query points. Numbers have `mean`, `scale`, `quantile` and
    `interval`, classes have `probabilities`, both have `log_density`. What a prediction does not have raises
    ValueError. `predictive` is the mixture itself.
    """

    predictive: Predictive
    present: Tensor
    is_single: bool

    @property
    def mean(self) -> Array:
        """Mean of the predictive."""
        return self._shaped(self._gaussian("mean").expectation())

    @property
    def scale(self) -> Array:
        """Standard deviation of the predictive, noise of an observation included."""
        return self._shaped(self._gaussian("scale").variance().sqrt())

    def quantile(self, level: float) -> Array:
        """The value that an observation lies below with probability `level`, inside (0, 1)."""
        return self._shaped(self._gaussian("quantile").quantile(level))

    def interval(self, level: float = 0.9) -> tuple[Array, Array]:
        """Lower and upper ends of the central interval that holds an observation with probability `level`."""
        lower, upper = self._gaussian("interval").interval(level)
        return self._shaped(lower), self._shaped(upper)

    @property
    def probabilities(self) -> Array:
        """Of each class, `(Q, C)`."""
        if not isinstance(self.predictive, CategoricalMixture):
            raise ValueError("this model predicts numbers and has no probabilities: read mean, scale or interval(0.9)")
        return self._filled(self.predictive.probabilities())

    def log_density(self, y: Numbers) -> Array:
        """Of observed targets at the query points, shape `(Q,)`, in nats; log probability for classes."""
        if not self.is_single:
            raise ValueError("log_density is of one task: index the adapted tasks, and predict with one of them")
        if isinstance(self.predictive, GaussianMixture):
            target = points("y", y, self.predictive.mean.shape[-1])
        else:
            target = classes("y", y, self.predictive.logits.shape[-1])
        if len(target) != self.present.shape[1]:
            raise ValueError(f"y has {len(target)} targets for {self.present.shape[1]} query points: give one for each")
        return self.predictive.log_density(target[None])[0].numpy()

    def _gaussian(self, what: str) -> GaussianMixture:
        if not isinstance(self.predictive, GaussianMixture):
            raise ValueError(f"this model predicts classes and has no {what}: read probabilities")
        return self.predictive

    def _shaped(self, values: Tensor) -> Array:
        filled = self._filled(values)
        return filled[..., 0] if filled.shape[-1] == 1 else filled

    def _filled(self, values: Tensor) -> Array:
        values = torch.where(self.present[..., None], values, torch.nan)
        return (values[0] if self.is_single else values).numpy()
