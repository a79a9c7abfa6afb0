"""Clustering strategies, in one table; what is done to points before and to labels after; what DP-means ends at."""

from collections.abc import Callable

import numpy as np
import pytest

from mcb.modes.clustering import (
    HDBSCAN,
    NOISE,
    Agglomerative,
    Clustering,
    DirichletProcessMixture,
    GaussianMixture,
    KMeans,
    MiniBatchKMeans,
    Spectral,
    by_size,
    find_clusters,
    standardised,
)
from mcb.modes.dp_means import DPMeans, squared_distances

SIZES = (45, 40, 35)
NUMBERED: list[Callable[[int], Clustering]] = [KMeans, MiniBatchKMeans, GaussianMixture, Agglomerative, Spectral]
FINDING: list[Clustering] = [DirichletProcessMixture(8), HDBSCAN(10), DPMeans(1.3)]
ALL: list[Clustering] = [*(build(3) for build in NUMBERED), *FINDING]


def blobs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three clouds far apart in four dimensions, of 45, 40 and 35 points in a random order, and whose they are."""
    generator = np.random.default_rng(seed)
    true = generator.permutation(np.repeat(np.arange(3), SIZES))
    centres = 10 * np.array([[1, 0, -1, 1], [-1, 1, 0, 0], [0, -1, 1, -1]])
    return centres[true] + generator.normal(size=(len(true), 4)), true


def by_name(strategy: Clustering) -> str:
    return type(strategy).__name__


@pytest.mark.parametrize("strategy", ALL, ids=by_name)
def test_clouds_far_apart_are_found_exactly_and_named_by_size(strategy):
    points, true = blobs()
    assert find_clusters(strategy, points, seed=0).tolist() == true.tolist()


@pytest.mark.parametrize("strategy", ALL, ids=by_name)
def test_labels_are_a_pure_function_of_points_and_seed(strategy):
    points = np.random.default_rng(1).normal(size=(80, 3))
    before = points.copy()
    labels = find_clusters(strategy, points, seed=5)
    np.testing.assert_array_equal(labels, find_clusters(strategy, points, seed=5))
    np.testing.assert_array_equal(points, before)
    assert labels.shape == (80,) and labels.dtype == np.int64


@pytest.mark.parametrize("strategy", ALL, ids=by_name)
def test_neither_units_nor_origin_of_a_representation_matter(strategy):
    points = np.random.default_rng(2).normal(size=(90, 3))
    moved = points * np.array([1e-3, 1.0, 1e4]) + np.array([5.0, -2.0, 1e5])
    np.testing.assert_array_equal(find_clusters(strategy, points, 0), find_clusters(strategy, moved, 0))


@pytest.mark.parametrize("strategy", ALL, ids=by_name)
def test_tasks_that_all_look_alike_are_clustered_without_a_complaint(strategy):
    assert find_clusters(strategy, np.ones((12, 2)), seed=0).max() <= 7


def test_one_outlier_does_not_hide_the_clouds():
    points, true = blobs()
    points[true.argmax()] = 1e6
    true[true.argmax()] = 3
    assert find_clusters(KMeans(4), points, seed=0).tolist() == true.tolist()


@pytest.mark.parametrize("build", NUMBERED, ids=lambda build: build.__name__)
def test_fewer_tasks_than_clusters_are_refused_with_both_numbers(build):
    with pytest.raises(ValueError, match=r"6 surveyed tasks are fewer than num_clusters=7: survey more tasks"):
        find_clusters(build(7), np.random.default_rng(0).normal(size=(6, 2)), seed=0)
    assert len(set(find_clusters(build(6), np.random.default_rng(0).normal(size=(6, 2)), seed=0))) <= 6


@pytest.mark.parametrize("strategy", FINDING, ids=by_name)
def test_a_single_task_is_refused_and_few_are_not(strategy):
    with pytest.raises(ValueError, match=r"1 surveyed tasks are fewer than num_clusters=2"):
        find_clusters(strategy, np.zeros((1, 2)), seed=0)
    if not isinstance(strategy, HDBSCAN):
        find_clusters(strategy, np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 3.0]]), seed=0)


def test_a_representation_that_is_not_finite_is_refused_with_its_task():
    points = np.zeros((5, 2))
    points[3, 1] = np.nan
    with pytest.raises(ValueError, match="representation of surveyed task 3 is not finite"):
        find_clusters(KMeans(2), points, seed=0)


@pytest.mark.parametrize(("strategy", "num_points", "least"), [(HDBSCAN(10), 9, 10), (HDBSCAN(), 4, 5)])
def test_hdbscan_refuses_fewer_points_than_its_smallest_cluster(strategy: HDBSCAN, num_points: int, least: int):
    points = np.random.default_rng(0).normal(size=(least, 2))
    assert find_clusters(strategy, points, seed=0).shape == (least,)
    with pytest.raises(ValueError, match=rf"{num_points} surveyed tasks are fewer than min_cluster_size={least}: "):
        find_clusters(strategy, points[:num_points], seed=0)
    with pytest.raises(ValueError, match="min_cluster_size=1 must be at least 2"):
        HDBSCAN(1)


def test_hdbscan_calls_points_between_clouds_noise():
    points, _ = blobs()
    points = np.concatenate([points, [[0.0, 0.0, 30.0, 30.0]]])
    assert find_clusters(HDBSCAN(10), points, seed=0)[-1] == NOISE


def test_a_mixture_of_small_concentration_keeps_few_components():
    points = np.random.default_rng(3).normal(size=(300, 2))
    few = find_clusters(DirichletProcessMixture(10, concentration=1e-4), points, 0).max()
    assert few < find_clusters(DirichletProcessMixture(10, concentration=1e4), points, 0).max()


def test_names_go_by_size_and_equal_sizes_by_the_first_member():
    assert by_size(np.array([7, 3, 3, -1, 9, 9, 9, 7])).tolist() == [1, 2, 2, -1, 0, 0, 0, 1]
    assert by_size(np.array([-1, -1])).tolist() == [-1, -1]


def test_standardised_columns_have_median_zero_and_a_normals_quartiles():
    points = np.random.default_rng(0).normal(3.0, 7.0, size=(20_001, 1))
    low, middle, high = np.quantile(standardised(points), [0.25, 0.5, 0.75])
    assert middle == pytest.approx(0, abs=1e-12) and high - low == pytest.approx(1.349)
    assert not standardised(np.full((4, 1), 1e6)).any()
    assert standardised(np.array([[-9e9], [-1.0], [0.0], [1.0], [9e9]])).ravel()[[0, 2, 4]].tolist() == [-5, 0, 5]
    mostly_zero = np.array([[0.0]] * 9 + [[2.0]])
    assert standardised(mostly_zero).max() == pytest.approx(2.0 / mostly_zero.std())


def dp_objective(points: np.ndarray, labels: np.ndarray, radius: float) -> float:
    centres = np.stack([points[labels == one].mean(0) for one in range(labels.max() + 1)])
    return ((points - centres[labels]) ** 2).sum() + radius**2 * len(centres)


def test_dp_means_is_where_neither_moving_a_point_nor_opening_a_cluster_for_it_helps():
    points = np.random.default_rng(4).normal(size=(150, 2))
    labels = DPMeans(radius=1.5)(points, seed=0)
    centres = np.stack([points[labels == one].mean(0) for one in range(labels.max() + 1)])
    squared = squared_distances(points, centres)
    np.testing.assert_array_equal(squared.argmin(1), labels)
    assert squared.min(1).max() <= 1.5**2 and labels.max() > 0
    assert dp_objective(points, labels, 1.5) < dp_objective(points, np.zeros(150, dtype=int), 1.5)


def test_dp_means_finds_fewer_clusters_the_larger_the_radius():
    points = np.random.default_rng(5).normal(size=(200, 2))
    numbers = [DPMeans(radius)(points, seed=0).max() + 1 for radius in (0.5, 1.0, 2.0, 4.0, 10.0)]
    assert numbers == sorted(numbers, reverse=True) and numbers[0] > 20 and numbers[-1] == 1


def test_dp_means_refuses_a_radius_that_is_not_above_zero():
    with pytest.raises(ValueError, match=r"radius=0\.0 must be above 0"):
        DPMeans(radius=0.0)
