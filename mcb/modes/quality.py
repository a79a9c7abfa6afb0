"""How good found modes are: against the true modes where these are known, and by themselves."""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from mcb.agreement import adjusted_rand_index, contingency, normalised_mutual_information
from mcb.metrics import majority_map


def agreement_with_truth(labels: Int[Tensor, "N"], mode: Int[Tensor, "N"]) -> dict[str, float]:
    """`ari`, `nmi`, `purity` and `accuracy` of found modes over the tasks whose true mode is known; {} if none is.

    Purity gives every found mode the true mode of most of its tasks, and so grows with their number; `accuracy` does
    that on one half of the tasks and is measured on the other, both ways round.
    """
    known = mode >= 0
    if not known.any():
        return {}
    labels, mode = labels[known], mode[known]
    num_labels = int(labels.max()) + 1
    table = contingency(labels, mode, num_labels, int(mode.max()) + 1)
    half = len(mode) // 2
    halves = [(labels[:half], mode[:half]), (labels[half:], mode[half:])]
    correct = sum(
        int((majority_map(*one, num_labels)[other[0]] == other[1]).sum()) for one, other in (halves, halves[::-1])
    )
    return {
        "ari": adjusted_rand_index(table).item(),
        "nmi": normalised_mutual_information(table).item(),
        "purity": (table.amax(1).sum() / len(mode)).item(),
        "accuracy": correct / len(mode),
    }


def stability(before: Int[Tensor, "N"], after: Int[Tensor, "N"]) -> float:
    """Adjusted Rand index of two labellings of the same tasks: 1 where only names changed."""
    table = contingency(before, after, int(before.max()) + 1, int(after.max()) + 1)
    return adjusted_rand_index(table).item()


def silhouette(points: Float[np.ndarray, "N R"], labels: Int[np.ndarray, "N"], num_points: int = 1000) -> float:
    """Mean silhouette (Rousseeuw 1987) of the first `num_points` points: 1 for clusters far apart, 0 for one."""
    from sklearn.metrics import silhouette_score

    points, labels = points[:num_points], labels[:num_points]
    if not 1 < len(np.unique(labels)) < len(labels):
        return 0.0
    return float(silhouette_score(points, labels))
