"""Scores of tasks and their summaries against hand-computed cases and scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor
from torch.distributions import Normal

from mcb.agreement import adjusted_rand_index, contingency, normalised_mutual_information
from mcb.limits import BayesReference
from mcb.metrics import (
    Z_95,
    TaskScores,
    concatenate,
    coverage,
    majority_map,
    paired,
    per_mode,
    score,
    summarise,
)
from mcb.predictive import GaussianMixture
from mcb.types import Task


def make_reference(nll: Tensor, squared_error: Tensor, correct: Tensor, mode: Tensor) -> BayesReference:
    """A reference of one query point a task with the given scores; wrong tasks believe in the next mode."""
    believed = torch.where(correct, mode, mode + 1)
    log_mode = torch.nn.functional.one_hot(believed, int(mode.max()) + 2).double()
    mean, target = torch.zeros_like(squared_error)[:, None], squared_error.sqrt()[:, None]
    return BayesReference(mean=mean, log_density=-nll[:, None], log_mode=log_mode, query_y=target, mode=mode)


def make_scores(num_tasks: int = 200, num_modes: int = 3, num_codes: int = 6, seed: int = 0) -> TaskScores:
    generator = torch.Generator().manual_seed(seed)
    mode = torch.arange(num_tasks) % num_modes
    noise = torch.randint(num_codes, (num_tasks,), generator=generator)
    return TaskScores(
        nll=torch.randn(num_tasks, generator=generator).double(),
        squared_error=torch.randn(num_tasks, generator=generator).double().square(),
        crps=torch.rand(num_tasks, generator=generator).double(),
        pit=torch.rand(num_tasks, 4, generator=generator).double(),
        mode=mode,
        code=torch.where(torch.rand(num_tasks, generator=generator) < 0.7, mode, noise),
    )


def make_tasks(query_y: Tensor, query_mask: Tensor, mode: Tensor) -> Task:
    support = torch.zeros(len(mode), 1, 1).double()
    present = torch.ones(len(mode), 1, dtype=torch.bool)
    return Task(support, support, present, torch.zeros_like(query_y), query_y, query_mask, mode)


def standard_normals(num_tasks: int, num_query: int, num_outputs: int = 1) -> GaussianMixture:
    return GaussianMixture(
        torch.zeros(num_tasks, 1).double(),
        torch.zeros(num_tasks, 1, num_query, num_outputs).double(),
        torch.zeros(()).double(),
    )


def test_score_of_standard_normals_by_hand():
    query_y = torch.tensor([[[0.0], [1.0]], [[2.0], [5.0]]]).double()
    mask = torch.tensor([[True, True], [True, False]])
    responsibilities = torch.tensor([[0.2, 0.8], [0.6, 0.4]]).double()
    scores = score(standard_normals(2, 2), make_tasks(query_y, mask, torch.tensor([0, 1])), responsibilities)
    normal = Normal(torch.zeros(()).double(), 1.0)
    log_density, cdf = normal.log_prob(query_y.squeeze(-1)), normal.cdf(query_y.squeeze(-1))
    torch.testing.assert_close(scores.nll, torch.stack([-log_density[0].mean(), -log_density[1, 0]]))
    torch.testing.assert_close(scores.squared_error, torch.tensor([0.5, 4.0]).double())
    torch.testing.assert_close(scores.pit[0], cdf[0])
    assert scores.pit[1, 0] == cdf[1, 0]
    assert scores.pit[1, 1].isnan()
    assert scores.code.tolist() == [1, 0]
    assert scores.mode.tolist() == [0, 1]


def test_scores_of_several_outputs_are_means_over_outputs_but_the_density_is_joint():
    query_y = torch.tensor([[[0.0, 2.0]]]).double()
    tasks = make_tasks(query_y, torch.tensor([[True]]), torch.tensor([0]))
    scores = score(standard_normals(1, 1, 2), tasks, torch.ones(1, 1).double())
    normal = Normal(torch.zeros(()).double(), 1.0)
    assert scores.squared_error.item() == pytest.approx(2.0)
    assert scores.nll.item() == pytest.approx(-normal.log_prob(query_y).sum().item())
    torch.testing.assert_close(scores.pit, normal.cdf(query_y).flatten(1))


def test_what_stands_in_a_masked_place_is_never_read():
    query_y = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    mask = torch.tensor([[True, True, False, False]]).expand(3, 4)
    one = score(standard_normals(3, 4, 2), make_tasks(query_y, mask, torch.zeros(3).long()), torch.ones(3, 1).double())
    query_y = query_y.masked_fill(~mask[..., None], 1e6)
    two = score(standard_normals(3, 4, 2), make_tasks(query_y, mask, torch.zeros(3).long()), torch.ones(3, 1).double())
    torch.testing.assert_close(one, two, equal_nan=True)
    short = score(
        standard_normals(3, 2, 2),
        make_tasks(query_y[:, :2], mask[:, :2], torch.zeros(3).long()),
        torch.ones(3, 1).double(),
    )
    torch.testing.assert_close(one._replace(pit=one.pit[:, :4]), short)


def test_task_without_query_points_is_refused_by_number():
    mask = torch.tensor([[True], [False]])
    with pytest.raises(ValueError, match="task 1 of the batch has 0 query points"):
        score(
            standard_normals(2, 1),
            make_tasks(torch.zeros(2, 1, 1).double(), mask, torch.zeros(2).long()),
            torch.ones(2, 1),
        )


def test_concatenate_keeps_the_order_of_tasks():
    scores = make_scores()
    parts = [TaskScores(*(leaf[rows] for leaf in scores)) for rows in (slice(0, 50), slice(50, 51), slice(51, None))]
    torch.testing.assert_close(concatenate(parts), scores)


def test_summary_of_four_tasks_by_hand():
    scores = TaskScores(
        nll=torch.tensor([1.0, 2.0, 3.0, 4.0]),
        squared_error=torch.tensor([1.0, 9.0, 2.0, 4.0]),
        crps=torch.tensor([0.5, 0.5, 0.5, 0.5]),
        pit=torch.tensor([[0.5, math.nan], [0.30, 0.96], [0.01, 0.02], [0.74, 0.06]]),
        mode=torch.tensor([0, 0, 1, 1]),
        code=torch.tensor([2, 2, 0, 2]),
    )
    summary = summarise(scores, code_to_mode=torch.tensor([1, -1, 0]))
    expected = {
        "nll": 2.5,
        "nll_ci": Z_95 * math.sqrt(5 / 3) / 2,
        "mse": 4.0,
        "mse_median": 3.0,
        "mse_median_ci": 4.0,
        "coverage_50": (1 + 0.5 + 0 + 0.5) / 4,
        "coverage_90": (1 + 0.5 + 0 + 1) / 4,
        "crps": 0.5,
        "crps_ci": 0.0,
        "mode_accuracy": 0.75,
        "mode_accuracy_ci": Z_95 * 0.5 / 2,
        "num_tasks": 4,
    }
    assert {key: summary[key] for key in expected} == pytest.approx(expected)


def test_summary_has_the_documented_keys_each_with_its_half_width():
    names = ["nll", "mse", "mse_median", "coverage_50", "coverage_90", "crps", "mode_accuracy", "ari", "nmi"]
    summary = summarise(make_scores(), code_to_mode=torch.tensor([0, 1, 2, 0, 0, 0]))
    assert set(summary) == {*names, *(f"{name}_ci" for name in names), "num_tasks"}
    assert all(math.isfinite(value) and value >= 0 for key, value in summary.items() if key.endswith("_ci"))


def test_mode_scores_are_absent_where_modes_are_unknown():
    scores = make_scores()
    summary = summarise(scores._replace(mode=torch.full_like(scores.mode, -1)), torch.zeros(6).long())
    assert not {"mode_accuracy", "ari", "nmi"} & set(summary)
    assert "mode_accuracy" not in summarise(scores)


def test_one_task_has_no_half_width_and_no_task_is_refused():
    scores = make_scores(num_tasks=1)
    summary = summarise(scores, torch.zeros(6).long())
    assert not [key for key in summary if key.endswith("_ci")]
    assert summary["num_tasks"] == 1
    with pytest.raises(ValueError, match="num_tasks=0 must be at least 1"):
        summarise(TaskScores(*(leaf[:0] for leaf in scores)))


def test_ari_and_nmi_are_scikit_learns():
    for seed in range(5):
        code, mode = make_scores(num_tasks=60, seed=seed)[-1:-3:-1]
        table = contingency(code, mode, 6, 3)
        assert adjusted_rand_index(table).item() == pytest.approx(adjusted_rand_score(mode, code), abs=1e-12)
        assert normalised_mutual_information(table).item() == pytest.approx(
            normalized_mutual_info_score(mode, code), abs=1e-12
        )
    summary = summarise(make_scores())
    assert summary["ari"] == pytest.approx(adjusted_rand_score(make_scores().mode, make_scores().code))


@pytest.mark.parametrize(
    ("code", "mode"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0]),
        ([0, 0, 0, 0], [0, 1, 0, 1]),
        ([0, 1, 2, 3], [0, 0, 1, 1]),
        ([1, 0, 1, 0], [0, 1, 0, 1]),
    ],
)
def test_ari_and_nmi_of_degenerate_partitions_are_scikit_learns(code, mode):
    table = contingency(torch.tensor(code), torch.tensor(mode), max(code) + 1, max(mode) + 1)
    assert adjusted_rand_index(table).item() == pytest.approx(adjusted_rand_score(mode, code))
    assert normalised_mutual_information(table).item() == pytest.approx(normalized_mutual_info_score(mode, code))


def test_bootstrap_half_width_is_the_spread_over_fresh_samples():
    summaries = [summarise(make_scores(num_tasks=900, seed=seed)) for seed in range(60)]
    for name in ("ari", "nmi"):
        spread = Z_95 * torch.tensor([summary[name] for summary in summaries]).std().item()
        mean_half_width = torch.tensor([summary[f"{name}_ci"] for summary in summaries]).mean().item()
        # a standard deviation from 60 draws is within 30 % of the truth except once in 1,000 times
        assert mean_half_width == pytest.approx(spread, rel=0.3)


def test_intervals_of_mean_and_median_cover_the_truth():
    generator = torch.Generator().manual_seed(0)
    covered = {"mse": 0, "mse_median": 0}
    truth = {"mse": 1.0, "mse_median": math.log(2)}
    for _ in range(400):
        errors = torch.empty(300).double().exponential_(generator=generator)
        summary = summarise(make_scores(300)._replace(squared_error=errors, mode=torch.full((300,), -1)))
        for name in covered:
            covered[name] += abs(summary[name] - truth[name]) <= summary[f"{name}_ci"]
    # 95 % of 400 is 380 +- 4.4; four standard deviations either way
    assert all(362 <= count <= 398 for count in covered.values())


def test_coverage_of_a_calibrated_predictor_is_its_level():
    pit = torch.rand(20_000, 5, generator=torch.Generator().manual_seed(0)).double()
    for level in (0.5, 0.9):
        half_width = 4 * math.sqrt(level * (1 - level) / pit.numel())
        assert coverage(pit, level).mean().item() == pytest.approx(level, abs=half_width)


def test_rows_per_mode_are_summaries_of_their_members():
    scores = make_scores()
    rows = per_mode(scores, ("a", "b", "c", "never drawn"), torch.tensor([0, 1, 2, 0, 0, 0]))
    assert list(rows) == ["a", "b", "c"]
    assert sum(row["num_tasks"] for row in rows.values()) == 200
    assert rows["b"]["nll"] == pytest.approx(scores.nll[scores.mode == 1].mean().item())
    assert rows["b"]["mode_accuracy"] == pytest.approx((scores.code[scores.mode == 1] == 1).double().mean().item())
    assert "ari" not in rows["a"] and "nmi_ci" not in rows["a"]


def test_majority_map_by_hand():
    code = torch.tensor([0, 0, 0, 2, 2, 2, 3])
    mode = torch.tensor([1, 1, 0, 2, -1, 2, -1])
    assert majority_map(code, mode, 5).tolist() == [1, -1, 2, -1, -1]
    assert majority_map(code, torch.full_like(mode, -1), 2).tolist() == [-1, -1]


def test_paired_by_hand():
    scores = make_scores(num_tasks=5)
    bayes = make_reference(
        scores.nll[:4] - torch.tensor([0.1, 0.3, 0.1, 0.3]).double(),
        scores.squared_error[:4] / 2,
        torch.tensor([True, True, False, True]),
        scores.mode[:4],
    )
    result = paired(scores, bayes)
    assert result["bayes"]["num_tasks"] == 4
    assert result["bayes"]["nll"] == pytest.approx(bayes.nll.mean().item())
    assert result["bayes"]["mse"] == pytest.approx(bayes.squared_error.mean().item())
    assert result["bayes"]["mode_accuracy"] == 0.75
    assert result["excess_nll"] == pytest.approx(0.2)
    assert result.get("excess_nll_ci") == pytest.approx(Z_95 * math.sqrt(0.04 / 3) / 2)
    assert result["mse_ratio"] == pytest.approx(2.0)
    assert result.get("mse_ratio_ci") == pytest.approx(0.0, abs=1e-12)  # exactly proportional errors leave no doubt


def test_paired_single_task_has_no_half_width():
    scores = make_scores(num_tasks=1)
    result = paired(scores, make_reference(scores.nll, scores.squared_error, scores.mode == 0, scores.mode))
    assert set(result) == {"bayes", "excess_nll", "mse_ratio"}
    assert set(result["bayes"]) == {"nll", "mse", "mode_accuracy", "num_tasks"}


def test_interval_of_the_mse_ratio_covers_the_truth():
    generator = torch.Generator().manual_seed(0)
    mode, nll = torch.zeros(400).long(), torch.zeros(400).double()
    covered = 0
    for _ in range(300):
        errors = torch.empty(400).double().exponential_(generator=generator)
        own = errors + 0.2 * torch.empty(400).double().exponential_(generator=generator)
        scores = make_scores(400)._replace(squared_error=own, nll=nll, mode=mode)
        result = paired(scores, make_reference(nll, errors, mode == 0, mode))
        covered += abs(result["mse_ratio"] - 1.2) <= result.get("mse_ratio_ci", 0.0)
    assert 270 <= covered <= 299  # 285 +- 3.8, four standard deviations


def test_reference_of_other_tasks_is_refused():
    scores = make_scores()
    bayes = make_reference(scores.nll, scores.squared_error, scores.mode == 0, scores.mode.roll(1))
    with pytest.raises(ValueError, match="the 200 tasks scored must be the first tasks"):
        paired(scores, bayes)
