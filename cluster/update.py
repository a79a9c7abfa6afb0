"""An update of the meta-parameters as a value: which gradients it sums, and what came of the sum."""

from typing import NamedTuple

import numpy as np

from cluster.blocks import norm
from cluster.shards import GradientKey


class Update(NamedTuple):
    """Update `number` of the parameters, in meta-step `version`: by `scale` times the sum over `keys`, in their order.

    `unused` gradients arrived and are never summed: whoever keeps gradients forgets them.
    """

    number: int
    version: int
    keys: tuple[GradientKey, ...]
    scale: float
    unused: tuple[GradientKey, ...]

    def norm(self, squared_sums: np.ndarray) -> float:
        """Norm of the update's gradient, from its sum's `cluster.blocks.squared_sums`."""
        return self.scale * norm(squared_sums)


class Summed(NamedTuple):
    """Of a sum, or of a range of it: its `cluster.blocks.squared_sums`, and where it ceased to be finite.

    `not_finite` is the place among the update's keys of the first gradient that made it so, None if it is finite.
    """

    squared_sums: np.ndarray
    not_finite: int | None


class Made(NamedTuple):
    """What came of an update: the norm of its gradient (one that is not finite moved nothing), and `Summed`'s place."""

    norm: float
    not_finite: int | None
