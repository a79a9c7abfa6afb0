"""Clusters go on as the slots that they share tasks with; the rest are new, and start from where their tasks came."""

from itertools import permutations

import numpy as np
import pytest

from mcb.modes.matching import match

USED = np.array([True, True, True, False])


def test_clusters_that_only_changed_their_names_keep_their_slots():
    overlap = np.array([[0, 0, 30, 0], [20, 0, 0, 0], [0, 10, 0, 0]])
    matching = match(overlap, np.ones((3, 4)), USED)
    assert matching.slot.tolist() == matching.parent.tolist() == [2, 0, 1]


def test_the_total_overlap_is_the_largest_of_all_matchings():
    generator = np.random.default_rng(0)
    for _ in range(20):
        overlap = generator.integers(1, 50, size=(4, 4))
        slot = match(overlap, generator.random((4, 4)), np.ones(4, dtype=bool)).slot
        best = max(overlap[range(4), order].sum() for order in permutations(range(4)))
        assert overlap[range(4), slot].sum() == best and sorted(slot) == [0, 1, 2, 3]


def test_distance_decides_between_equal_overlaps_and_never_against_a_larger_one():
    equal, unequal = np.array([[10, 10], [10, 10]]), np.array([[11, 10], [10, 10]])
    distance = np.array([[9.0, 1.0], [1.0, 9.0]])
    assert match(equal, distance, np.ones(2, dtype=bool)).slot.tolist() == [1, 0]
    assert match(unequal, distance, np.ones(2, dtype=bool)).slot.tolist() == [0, 1]


def test_the_smaller_half_of_a_cluster_that_fell_apart_is_new_and_starts_as_the_larger():
    overlap = np.array([[0, 30, 0, 0], [0, 20, 0, 0], [15, 0, 0, 0]])
    matching = match(overlap, np.ones((3, 4)), USED)
    assert matching.slot.tolist() == [1, 3, 0]  # slot 3 was free; 2 was in use, and retires
    assert matching.parent.tolist() == [1, 1, 0]


def test_a_new_cluster_takes_a_retired_slot_where_no_other_is_free():
    overlap = np.array([[30, 0], [20, 0]])
    matching = match(overlap, np.ones((2, 2)), np.ones(2, dtype=bool))
    assert matching.slot.tolist() == [0, 1] and matching.parent.tolist() == [0, 0]


def test_a_cluster_without_old_tasks_starts_from_the_nearest_slot_in_use():
    overlap = np.array([[30, 0, 0, 0], [0, 0, 0, 0]])
    distance = np.array([[0.0, 9.0, 9.0, 9.0], [3.0, 2.0, 4.0, 0.5]])
    matching = match(overlap, distance, USED)
    assert matching.slot.tolist() == [0, 3] and matching.parent.tolist() == [0, 1]


def test_more_clusters_than_slots_are_refused():
    with pytest.raises(ValueError, match="3 clusters do not fit into 2 slots: keep the largest of them"):
        match(np.ones((3, 2)), np.ones((3, 2)), np.ones(2, dtype=bool))
