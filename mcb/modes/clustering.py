"""Clustering strategies, scikit-learn's under one interface; DP-means, which it has not, is in `dp_means`."""

import warnings
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mcb.modes.one_thread import one_thread
from mcb.randomness import fold_key

NOISE = -1  # label of a point that belongs to no cluster
_SMALLEST_VARIANCE = 1e-3  # of a mixture's component, of standardised points


@runtime_checkable
class Clustering(Protocol):
    """A clustering strategy with bound hyperparameters and no state."""

    @property
    def num_clusters(self) -> int | None:
        """How many clusters it makes; None where it finds their number itself."""
        ...

    def __call__(self, points: np.ndarray, seed: int) -> np.ndarray:
        """`(N,)` labels of `(N, R)` standardised float64 points, -1 for noise; a pure function of its arguments."""
        ...


def find_clusters(clustering: Clustering, points: np.ndarray, seed: int) -> np.ndarray:
    """Labels `0..C - 1`, the largest cluster first, and -1 for noise, of the standardised points.

    One thread, so that sums are added in the same order everywhere.

    Raises:
        ValueError: a point is not finite, or there are fewer points than clusters, or than a cluster must have.
    """
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(1))[0])
        raise ValueError(f"the representation of surveyed task {row} is not finite: lower the learning rate")
    if len(points) < max(2, clustering.num_clusters or 0):
        least = clustering.num_clusters or 2
        raise ValueError(f"{len(points)} surveyed tasks are fewer than num_clusters={least}: survey more tasks")
    with one_thread(), warnings.catch_warnings():
        _ignore_what_is_expected()
        labels = clustering(standardised(points), fold_key(seed, "clustering") % 2**32)
    return by_size(labels)


def standardised(points: np.ndarray) -> np.ndarray:
    """Each column less its median, in units of its interquartile range over that of a normal, cut off at 5 either side.

    A column whose quartiles are equal is divided by its standard deviation, a constant one becomes 0.
    """
    centred = points - np.median(points, axis=0)
    low, high = np.quantile(centred, [0.25, 0.75], axis=0)
    scale = np.where(high > low, (high - low) / 1.349, centred.std(0))
    negligible = 1e-9 * np.median(np.abs(points), axis=0)
    return np.clip(np.where(scale > negligible, centred / np.maximum(scale, 1e-300), 0.0), -5, 5)


def by_size(labels: np.ndarray) -> np.ndarray:
    """Clusters renamed to `0, 1, …` from the largest to the smallest, equal ones by their first member."""
    names, first, count = np.unique(labels[labels != NOISE], return_index=True, return_counts=True)
    renamed = np.full(len(labels), NOISE)
    for new, old in enumerate(np.lexsort((first, -count))):
        renamed[labels == names[old]] = new
    return renamed


@dataclass(frozen=True)
class KMeans:
    """K-means (Lloyd 1982), the best of `num_starts` k-means++ starts."""

    num_clusters: int
    num_starts: int = 4

    def __call__(self, points: np.ndarray, seed: int) -> np.ndarray:
        """Labels."""
        return _fit(cluster().KMeans(self.num_clusters, n_init=self.num_starts, random_state=seed), points)


@dataclass(frozen=True)
class MiniBatchKMeans:
    """K-means by steps on random batches (Sculley 2010), for large surveys."""

    num_clusters: int
    num_starts: int = 4
    batch_size: int = 1024

    def __call__(self, points: np.ndarray, seed: int) -> np.ndarray:
        """Labels."""
        estimator = cluster().MiniBatchKMeans(
            self.num_clusters, n_init=self.num_starts, batch_size=self.batch_size, random_state=seed
        )
        return _fit(estimator, points)


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of Gaussians with diagonal covariances by expectation maximisation, which starts at k-means."""

    num_clusters: int
    num_starts: int = 2

    def __call__(self, points: np.ndarray, seed: int) -> np.ndarray:
        """The likeliest component of each point."""
        estimator = mixture().GaussianMixture(
            self.num_clusters,
            covariance_type="diag",
            reg_covar=_SMALLEST_VARIANCE,
            n_init=self.num_starts,
            random_state=seed,
        )
        return _fit(estimator, points)


@dataclass(frozen=True)
class DirichletProcessMixture:
    """A mixture of Gaussians under a Dirichlet process, by variational inference (Blei & Jordan 2006): finds how many.

    It is cut off at `max_clusters`. The smaller the `concentration`, the fewer components keep any points; None: one
    over `max_clusters`.
    """

    max_clusters: int
    concentration: float | None = None
    num_clusters: None = None

    def __call__(self, points: np.ndarray, seed: int) -> np.ndarray:
        """The likeliest component of each point."""
        estimator = mixture().BayesianGaussianMixture(
            n_components=min(self.max_clusters, len(points)),
            covariance_type="diag",
            reg_covar=_SMALLEST_VARIANCE,
            weight_concentration_prior=self.concentration or 1 / self.max_clusters,
            max_iter=200,
            random_state=seed,
        )
        return _fit(estimator, points)


@dataclass(frozen=True)
class Agglomerative:
    """Merges whatever raises the variance within clusters least, from single points up (Ward 1963)."""

    num_clusters: int

    def __call__(self, points: np.ndarray, seed: int) -> np.ndarray:
        """Labels; there is nothing random."""
        return _fit(cluster().AgglomerativeClustering(self.num_clusters, linkage="ward"), points)


@dataclass(frozen=True)
class Spectral:
    """Cuts the graph of nearest neighbours by its spectrum (Shi & Malik 2000)."""

    num_clusters: int
    num_neighbors: int = 15

    def __call__(self, points: np.ndarray, seed: int) -> np.ndarray:
        """Labels."""
        if len(points) <= self.num_clusters + 1:  # the solver finds fewer eigenvectors than there are points
            return np.arange(len(points)) % self.num_clusters
        estimator = cluster().SpectralClustering(
            self.num_clusters,
            affinity="nearest_neighbors",
            n_neighbors=min(self.num_neighbors, len(points)),
            assign_labels="cluster_qr",
            random_state=seed,
        )
        return _fit(estimator, points)


@dataclass(frozen=True)
class HDBSCAN:
    """Dense regions at whatever density they hold together longest (Campello, Moulavi & Sander 2013): finds how many.

    Points between them are noise. `min_cluster_size` None: a hundredth of the points, at least 5. Raises `ValueError`
    for one below 2.
    """

    min_cluster_size: int | None = None
    num_clusters: None = None

    def __post_init__(self) -> None:
        if self.min_cluster_size is not None and self.min_cluster_size < 2:
            raise ValueError(f"min_cluster_size={self.min_cluster_size} must be at least 2")

    def smallest_of(self, num_points: int) -> int:
        """Points of the smallest cluster among so many."""
        return self.min_cluster_size or max(5, num_points // 100)

    def __call__(self, points: np.ndarray, seed: int) -> np.ndarray:
        """Labels, -1 for noise; nothing is random. Raises `ValueError` for fewer points than the smallest cluster."""
        size = self.smallest_of(len(points))
        if len(points) < size:
            raise ValueError(
                f"{len(points)} surveyed tasks are fewer than min_cluster_size={size}: survey more tasks, or lower it"
            )
        return _fit(cluster().HDBSCAN(size, copy=True), points)


def cluster() -> Any:
    """scikit-learn's module, imported where clusters are made: a worker computes gradients and makes none."""
    import sklearn.cluster

    return sklearn.cluster


def mixture() -> Any:
    """The same of mixtures."""
    import sklearn.mixture

    return sklearn.mixture


def _fit(estimator: Any, points: np.ndarray) -> np.ndarray:
    return np.asarray(estimator.fit_predict(points), dtype=np.int64)


def _ignore_what_is_expected() -> None:
    """Fits that end at their last iteration, fewer distinct points than clusters, and graphs that fall into parts."""
    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", "Graph is not fully connected", UserWarning)
