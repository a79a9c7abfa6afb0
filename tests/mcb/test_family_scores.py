"""Rows of families: means over curves, families weighted equally."""

import math

import pytest
import torch

from mcb.family_scores import family_rows
from mcb.metrics import TaskScores, per_mode


def make_scores(mode: list[int], squared_error: list[float], nll: list[float]) -> TaskScores:
    """Scores whose first of two query points is covered by every interval and whose second by none."""
    num_tasks = len(mode)
    return TaskScores(
        nll=torch.tensor(nll),
        squared_error=torch.tensor(squared_error),
        crps=torch.zeros(num_tasks),
        pit=torch.tensor([[0.5, 0.999, math.nan]]).expand(num_tasks, 3),
        mode=torch.tensor(mode),
        code=torch.zeros(num_tasks, dtype=torch.int64),
    )


SCORES = make_scores([0, 1, 1, 0, 1, 1], [1.0, 4.0, 8.0, 3.0, 4.0, 20.0], [1.0, -1.0, -2.0, 2.0, -3.0, 10.0])


def test_rows_are_means_over_tasks_and_pooled_is_their_mean():
    rows = family_rows(SCORES, ("a", "b"))
    assert list(rows) == ["a", "b", "pooled"]
    assert rows["a"]["rmse"] == pytest.approx(math.sqrt(2))
    assert rows["b"]["rmse"] == pytest.approx(3)
    assert rows["pooled"]["rmse"] == pytest.approx(math.sqrt(5.5))
    assert [rows[name]["nll"] for name in rows] == pytest.approx([1.5, 1.0, 1.25])
    assert [rows[name]["nll_median"] for name in rows] == pytest.approx([1.5, -1.5, 0.0])
    assert [rows[name]["coverage_90"] for name in rows] == pytest.approx([0.5, 0.5, 0.5])
    assert [rows[name]["num_tasks"] for name in rows] == [2, 4, 6]


def test_half_widths_are_those_of_the_metrics():
    rows, reference = family_rows(SCORES, ("a", "b")), per_mode(SCORES, ("a", "b"))
    for name, row in reference.items():
        assert rows[name]["nll_ci"] == pytest.approx(row["nll_ci"])
        assert rows[name]["coverage_50_ci"] == pytest.approx(row["coverage_50_ci"], abs=1e-12)
        assert rows[name]["rmse_ci"] == pytest.approx(row["mse_ci"] / (2 * math.sqrt(row["mse"])))
    assert rows["pooled"]["nll_ci"] == pytest.approx(math.hypot(*(row["nll_ci"] for row in reference.values())) / 2)


def test_repeats_of_a_curve_are_averaged_first():
    curve = torch.tensor([7, 3, 3, 8, 5, 5])
    rows = family_rows(SCORES, ("a", "b"), curve)
    merged = make_scores([0, 0, 1, 1], [1.0, 3.0, 6.0, 12.0], [1.0, 2.0, -1.5, 3.5])
    for name, row in family_rows(merged, ("a", "b")).items():
        assert rows[name] == pytest.approx(row)


def test_repeating_every_task_makes_no_interval_narrower():
    twice = TaskScores(*(torch.cat([leaf, leaf]) for leaf in SCORES))
    found, wanted = family_rows(twice, ("a", "b"), torch.arange(12) % 6), family_rows(SCORES, ("a", "b"))
    for name, row in wanted.items():
        assert found[name] == pytest.approx(row)


def test_a_family_without_tasks_has_no_row_and_one_of_one_task_no_half_width():
    rows = family_rows(make_scores([2, 0, 0], [1.0, 2.0, 0.0], [1.0, 2.0, 0.0]), ("a", "b", "c"))
    assert list(rows) == ["a", "c", "pooled"]
    assert "nll_ci" in rows["a"]
    assert "nll_ci" not in rows["c"]
    assert "nll_ci" not in rows["pooled"]


def test_perfect_predictions_have_an_error_of_zero():
    rows = family_rows(make_scores([0, 0], [0.0, 0.0], [1.0, 2.0]), ("a",))
    assert (rows["a"]["rmse"], rows["a"]["rmse_ci"]) == (0, 0)


def test_unknown_families_are_refused():
    with pytest.raises(ValueError, match=r"^none of 2 tasks belongs to a known family; "):
        family_rows(make_scores([-1, -1], [1.0, 2.0], [1.0, 2.0]), ("a",))
