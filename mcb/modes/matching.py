"""Which new cluster goes on as which slot, so that a code keeps its meaning from one refresh to the next."""

from typing import NamedTuple

import numpy as np


class Matching(NamedTuple):
    """For each new cluster its slot, and the old slot whose code it starts with: its own where it goes on.

    The arrays have one entry for each cluster.
    """

    slot: np.ndarray
    parent: np.ndarray


def match(overlap: np.ndarray, distance: np.ndarray, in_use: np.ndarray) -> Matching:
    """Match `C` new clusters to `K` slots.

    `overlap[c, k]` counts the surveyed tasks of cluster `c` that slot `k` had under the old state, and is maximised in
    total (Kuhn 1955, the Hungarian method); `distance[c, k]` between centroids breaks ties. Overlap and not distance,
    because the space of representations moves with the parameters while the surveyed tasks stay the same. A cluster
    without a task in common with its slot is a new one: it gets a free slot, unused ones first, and the code of the
    slot that most of its tasks come from, of the nearest one if none has any. Slots that nobody goes on as are retired.

    Raises:
        ValueError: more clusters than slots.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and workers match nothing

    num_clusters, num_slots = overlap.shape
    if num_clusters > num_slots:
        raise ValueError(f"{num_clusters} clusters do not fit into {num_slots} slots: keep the largest of them")
    old = np.flatnonzero(in_use)
    nearness = 1 - distance[:, old] / max(distance[:, old].max(initial=0), 1e-300)
    gain = np.where(overlap[:, old] > 0, overlap[:, old] + nearness / (2 * num_slots), 0)
    slot = np.full(num_clusters, -1)
    for cluster, place in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
        if overlap[cluster, old[place]] > 0:
            slot[cluster] = old[place]
    parent = old[np.where(overlap[:, old].any(1), gain.argmax(1), nearness.argmax(1))]
    parent = np.where(slot >= 0, slot, parent)
    taken = np.isin(np.arange(num_slots), slot)
    free = sorted(np.flatnonzero(~taken), key=lambda one: bool(in_use[one]))
    new = np.flatnonzero(slot < 0)
    slot[new] = free[: len(new)]
    return Matching(slot, parent)
