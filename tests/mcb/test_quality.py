"""Quality of found modes: by hand, by chance, and against scikit-learn's own scores."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

from mcb.modes.quality import agreement_with_truth, silhouette, stability


def some_labels(num: int, seed: int, high: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, high, num))


def test_ari_and_nmi_are_scikit_learns():
    labels, mode = some_labels(200, 0), some_labels(200, 1, 3)
    labels[:120] = mode[:120]
    scores = agreement_with_truth(labels, mode)
    assert scores["ari"] == pytest.approx(adjusted_rand_score(mode, labels))
    assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(mode, labels))


def test_purity_and_accuracy_by_hand():
    labels = torch.tensor([0, 0, 0, 1, 0, 0, 0, 1])
    mode = torch.tensor([0, 0, 0, 1, 0, 1, 1, 1])
    scores = agreement_with_truth(labels, mode)
    assert scores["purity"] == (4 + 2) / 8
    # the first half says 0 -> 0, 1 -> 1, right for 2 of the second; the second 0 -> 1, 1 -> 1, right for 1 of the first
    assert scores["accuracy"] == 3 / 8


def test_many_found_modes_flatter_the_purity_and_not_the_accuracy():
    mode = some_labels(400, 0, 2)
    scores = agreement_with_truth(torch.arange(400) % 200, mode)
    assert scores["purity"] > 0.7 and abs(scores["accuracy"] - 0.5) < 0.1


def test_tasks_of_unknown_mode_do_not_count():
    labels, mode = some_labels(50, 0), some_labels(50, 1)
    more = agreement_with_truth(torch.cat([labels, labels]), torch.cat([mode, torch.full((50,), -1)]))
    assert more == agreement_with_truth(labels, mode)
    assert agreement_with_truth(labels, torch.full((50,), -1)) == {}


def test_stability_is_one_where_only_names_changed():
    labels = some_labels(60, 0)
    assert stability(labels, 3 - labels) == pytest.approx(1.0)
    assert abs(stability(labels, some_labels(60, 7))) < 0.1


def test_silhouette_is_scikit_learns_on_the_first_points_and_zero_for_one_cluster():
    points, labels = np.random.default_rng(0).normal(size=(80, 2)), some_labels(80, 0).numpy()
    assert silhouette(points, labels, 50) == pytest.approx(silhouette_score(points[:50], labels[:50]))
    assert silhouette(points, np.zeros(80, dtype=int)) == 0.0 == silhouette(points[:3], np.arange(3))
