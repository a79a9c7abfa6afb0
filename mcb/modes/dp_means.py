"""DP-means: k-means in which a point far from every cluster starts one of its own (Kulis & Jordan 2012)."""

from dataclasses import dataclass

import numpy as np

_MOST_SWEEPS = 300


@dataclass(frozen=True)
class DPMeans:
    r"""Descends $\sum_i \|x_i - c_{z_i}\|^2 + \lambda C$ with $\lambda$ = `radius` squared: finds the number `C`.

    The limit of a Dirichlet-process mixture as its components shrink to points. In every sweep the point farthest from
    all centres, if farther than `radius`, becomes a centre, then centres move to the means of their points; each of
    these lowers the objective or leaves it. (The paper goes through the points in their order and depends on it.)
    Points come standardised; `radius` None: the root of their number of columns, one standard deviation in each.
    """

    radius: float | None = None
    num_clusters: None = None

    def __post_init__(self) -> None:
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"radius={self.radius} must be above 0")

    def __call__(self, points: np.ndarray, seed: int) -> np.ndarray:
        """Labels; there is nothing random."""
        radius = self.radius or points.shape[1] ** 0.5
        centres = points.mean(0, keepdims=True)
        labels = np.zeros(len(points), dtype=np.int64)
        for _ in range(_MOST_SWEEPS):
            squared = squared_distances(points, centres)
            nearest = squared.argmin(1)
            farthest = squared.min(1).argmax()
            if grows := squared[farthest].min() > radius**2:
                centres = np.concatenate([centres, points[[farthest]]])
                nearest[farthest] = len(centres) - 1
            if not grows and (nearest == labels).all():
                break
            names, labels = np.unique(nearest, return_inverse=True)
            centres = np.stack([points[labels == one].mean(0) for one in range(len(names))])
        return labels


def squared_distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """`(N, C)` squared Euclidean distances."""
    cross = points @ centres.T
    return np.maximum((points**2).sum(1)[:, None] - 2 * cross + (centres**2).sum(1), 0)
