"""What the figures of found modes show, read back from their axes."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mcb.figures import found_against_true, representative_tasks, tasks_by_mode
from mcb.figures.style import PALETTE
from mcb.predictive import GaussianMixture
from mcb.types import Task

NAMES = ("sinusoid", "linear", "quadratic")
LABEL = torch.tensor([7, 7, 7, 2, 2, 2, 2, 5, 5, 0])
MODE = torch.tensor([1, 1, 2, 2, 2, 2, 1, 0, 0, -1])


def render(figure: Figure) -> None:
    figure.savefig(io.BytesIO(), format="png", dpi=50)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def test_tasks_lie_on_principal_components_coloured_left_by_true_and_right_by_found_mode():
    figure = tasks_by_mode(draws(10, 4), LABEL, MODE, NAMES)
    render(figure)
    left, right = figure.axes
    assert [dots.get_label() for dots in left.collections] == [*NAMES, "unknown"]
    assert sorted(text.get_text() for text in right.texts) == ["0", "2", "5", "7"]
    found = {len(np.asarray(dots.get_offsets())): np.asarray(dots.get_facecolor())[0, :3] for dots in right.collections}
    for size, mode in ((4, 2), (3, 1), (2, 0)):  # slots 2, 7 and 5 in the colours of their commonest true modes
        np.testing.assert_allclose(found[size], to_rgb(PALETTE[mode]))
    assert "4 of them" in right.get_title()


def test_columns_count_alike_whatever_their_units():
    points = draws(40, 3)
    figures = [tasks_by_mode(points * scale, LABEL.repeat(4), MODE.repeat(4), NAMES) for scale in (1.0, 1e6)]
    places = [np.abs(np.asarray(figure.axes[1].collections[0].get_offsets())) for figure in figures]
    np.testing.assert_allclose(*places, rtol=1e-6)
    figure = tasks_by_mode(points * torch.tensor([1e-6, 1.0, 1e6]), LABEL.repeat(4), MODE.repeat(4), NAMES)
    np.testing.assert_allclose(np.abs(np.asarray(figure.axes[1].collections[0].get_offsets())), places[0], rtol=1e-6)


def test_without_true_modes_there_is_one_panel_and_many_found_modes_have_no_numbers():
    figure = tasks_by_mode(draws(60, 2), torch.arange(60) % 30, torch.full((60,), -1), ())
    render(figure)
    (axes,) = figure.axes
    assert not axes.texts and "30 of them" in axes.get_title() and len(axes.collections) == 30


def test_a_constant_column_and_outliers_do_no_harm():
    points = draws(60, 3)
    points[:, 1] = 4.0
    points[0] = 1e6
    figure = tasks_by_mode(points, torch.arange(60) % 3, torch.arange(60) % 3, NAMES)
    render(figure)
    low, high = figure.axes[0].get_xlim()
    assert high - low < 20


def test_one_task_or_one_column_is_refused():
    with pytest.raises(ValueError, match=r"points of shape \(3, 1\) must have at least 2 tasks and 2 columns"):
        tasks_by_mode(draws(3, 1), torch.zeros(3).long(), torch.zeros(3).long(), NAMES)


def test_confusion_has_the_found_modes_sorted_by_their_commonest_true_mode_in_per_cent():
    figure = found_against_true(LABEL, MODE, NAMES)
    render(figure)
    above, below = figure.axes[:2]
    assert [text.get_text() for text in below.get_xticklabels()] == ["5", "7", "2"]
    shares = np.asarray(below.get_images()[0].get_array())
    np.testing.assert_allclose(shares, [[100, 0, 0], [0, 200 / 3, 25], [0, 100 / 3, 75]])
    assert [bar.get_height() for bar in above.patches if isinstance(bar, Rectangle)] == [2, 3, 4]
    assert [text.get_text() for text in below.texts] == ["100", "0", "0", "0", "67", "33", "0", "25", "75"]
    assert "3 found modes" in above.get_title()


def test_confusion_of_many_found_modes_has_no_numbers_and_of_none_known_is_refused():
    figure = found_against_true(torch.arange(120) % 60, torch.arange(120) % 3, NAMES)
    render(figure)
    assert not figure.axes[1].texts
    with pytest.raises(ValueError, match="mode=-1 for every task"):
        found_against_true(LABEL, torch.full((10,), -1), NAMES)


@pytest.mark.parametrize("num_modes", [1, 2, 5, 7])
def test_each_found_mode_shows_what_it_expects_and_the_support_set_of_its_task(num_modes):
    x = torch.linspace(-3, 3, 21).double().expand(num_modes, 21)
    mean = draws(num_modes, 2, 21, 1, seed=1)
    predictive = GaussianMixture(torch.zeros(num_modes, 2).double().log_softmax(1), mean, torch.zeros(1, 1, 1).double())
    point, mask = draws(num_modes, 4, 1, seed=2), torch.tensor([True, True, False, True]).expand(num_modes, 4)
    tasks = Task(point, 2 * point, mask, point, point, mask, torch.zeros(num_modes).long())
    figure = representative_tasks(predictive, tasks, x, tuple(f"mode {m}\nof them" for m in range(num_modes)))
    render(figure)
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == num_modes
    low, high = predictive.interval(0.5)
    for number, axes in enumerate(panels):
        assert axes.get_title() == f"mode {number}\nof them"
        lines = {line.get_label(): np.asarray(line.get_xydata()) for line in axes.get_lines()}
        np.testing.assert_allclose(lines["mean"][:, 1], predictive.expectation()[number, :, 0])
        np.testing.assert_allclose(lines["a typical task"], torch.cat([point, 2 * point], -1)[number][mask[number]])
        band = {one.get_label(): np.asarray(one.get_paths()[0].vertices)[:, 1] for one in axes.collections}
        assert band["50 % of what it expects"].min() == pytest.approx(low[number].min().item())
        assert band["50 % of what it expects"].max() == pytest.approx(high[number].max().item())


def test_no_mode_is_refused():
    nothing = torch.zeros(0, 21).double()
    predictive = GaussianMixture(torch.zeros(0, 1), torch.zeros(0, 1, 21, 1), torch.zeros(0, 1, 21, 1))
    mask = torch.ones(0, 1, dtype=torch.bool)
    tasks = Task(
        nothing[:, :1, None], nothing[:, :1, None], mask, nothing[:, :1, None], nothing[:, :1, None], mask, MODE[:0]
    )
    with pytest.raises(ValueError, match="num_modes=0 must be at least 1"):
        representative_tasks(predictive, tasks, nothing, ())
