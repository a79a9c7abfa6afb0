"""What the figures show, read back from their axes; that they render without a warning and nobody else imports them."""

import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from mcb.figures import calibration, embeddings_by_mode, learning_curve, posterior_predictive, responsibilities_by_mode
from mcb.figures.learning import running_mean
from mcb.figures.style import PALETTE
from mcb.predictive import GaussianMixture
from mcb.types import Task

NAMES = ("sinusoid", "linear", "quadratic")


def render(figure: Figure) -> None:
    figure.savefig(io.BytesIO(), format="png", dpi=50)


def make_tasks(modes: list[int]) -> Task:
    num_tasks = len(modes)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(num_tasks, 4, 1, generator=generator).double() for _ in range(2))
    mask = torch.tensor([True, True, True, False]).expand(num_tasks, 4)
    return Task(x, y, mask, x, y, mask, torch.tensor(modes))


def make_predictive(num_tasks: int, num_points: int) -> GaussianMixture:
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(num_tasks, 3, num_points, 1, generator=generator).double()
    return GaussianMixture(torch.zeros(num_tasks, 3).double().log_softmax(1), mean, torch.zeros(1, 1, 1).double())


def make_grid(num_tasks: int) -> torch.Tensor:
    return torch.linspace(-3, 3, 21).double().expand(num_tasks, 21)


def points(line: Line2D) -> np.ndarray:
    """The line's points, one a row."""
    return np.asarray(line.get_xydata())


def heights(axes: Axes) -> list[float]:
    return [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.axison]


def test_posterior_predictive_draws_each_task_in_the_column_of_its_mode():
    tasks, x = make_tasks([0, 1, 2, 0, 1, 2]), make_grid(6)
    predictive = make_predictive(6, 21)
    figure = posterior_predictive(predictive, tasks, x, NAMES, truth=x.sin())
    render(figure)
    assert [axes.get_title() for axes in panels(figure)] == [*NAMES, "", "", ""]
    for task, axes in enumerate(panels(figure)):  # row by row, so task order
        lines = {line.get_label(): points(line) for line in axes.get_lines()}
        np.testing.assert_allclose(lines["predictive mean"][:, 1], predictive.expectation()[task, :, 0])
        np.testing.assert_allclose(lines["truth"][:, 1], x[task].sin())
        np.testing.assert_allclose(lines["support point"], torch.cat([tasks.support_x, tasks.support_y], -1)[task, :3])
        low, high = axes.get_ylim()
        assert low < lines["support point"][:, 1].min() and lines["support point"][:, 1].max() < high


def test_posterior_predictive_bands_are_the_central_intervals():
    predictive = make_predictive(1, 21)
    figure = posterior_predictive(predictive, make_tasks([0]), make_grid(1), NAMES)
    bands = {band.get_label(): np.asarray(band.get_paths()[0].vertices)[:, 1] for band in panels(figure)[0].collections}
    for level in (0.5, 0.9):
        low, high = predictive.interval(level)
        band = bands[f"{100 * level:.0f} % interval"]
        assert band.min() == pytest.approx(low.min().item()) and band.max() == pytest.approx(high.max().item())
    assert "truth" not in [line.get_label() for line in panels(figure)[0].get_lines()]


def test_posterior_predictive_without_modes_or_with_many_of_them():
    for modes, num_panels in (([-1] * 7, 7), ([*range(8), 3], 9), ([-1, 0, 1], 2)):
        figure = posterior_predictive(make_predictive(len(modes), 21), make_tasks(modes), make_grid(len(modes)))
        render(figure)
        assert len(panels(figure)) == num_panels


def test_posterior_predictive_cuts_off_a_fan_that_would_flatten_the_rest():
    predictive = make_predictive(1, 21)
    log_scale = torch.zeros(1, 1, 21, 1).double()
    log_scale[..., -1, 0] = 5.0  # about 250 wide, where everything else is within 5
    figure = posterior_predictive(predictive._replace(log_scale=log_scale), make_tasks([0]), make_grid(1), NAMES)
    low, high = panels(figure)[0].get_ylim()
    half_low, half_high = (
        end.item() for end in (predictive._replace(log_scale=log_scale).interval(0.5)[i][0, -1, 0] for i in (0, 1))
    )
    assert low < half_low and half_high < high
    assert high - low < 1.7 * (half_high - half_low)


def test_posterior_predictive_of_no_task_is_refused():
    with pytest.raises(ValueError, match="num_tasks=0 must be at least 1"):
        posterior_predictive(make_predictive(0, 21), make_tasks([]), make_grid(0))


def test_responsibilities_are_means_by_mode_sorted_by_the_mode_of_each_code():
    mode = torch.tensor([0, 0, 1, 1, 2, -1])
    responsibilities = torch.tensor(
        [
            [0.0, 0.3, 0.7, 0.0, 0.0],
            [0.0, 0.5, 0.5, 0.0, 0.0],
            [1.0, 0.0, 0.0, 0.0, 0.0],
            [0.6, 0.2, 0.2, 0.0, 0.0],
            [0.1, 0.0, 0.1, 0.8, 0.0],
            [0.0, 0.0, 0.0, 0.0, 1.0],
        ]
    ).double()
    figure = responsibilities_by_mode(responsibilities, mode, NAMES)
    render(figure)
    left, right = figure.axes[:2]
    # codes 2 and 1 belong to mode 0, code 0 to mode 1, code 3 to mode 2; code 4 is only used by the unknown task
    expected = [[0.6, 0.4, 0.0, 0.0], [0.1, 0.1, 0.8, 0.0], [0.1, 0.0, 0.1, 0.8]]
    np.testing.assert_allclose(np.asarray(left.get_images()[0].get_array()), expected, atol=1e-12)
    assert "4 in use, 1 not" in left.get_xlabel()
    assert [points(line)[0, 0] for line in left.get_lines()] == [1.5, 2.5]
    assert [text.get_text() for text in right.texts] == ["100", "0", "0", "20", "80", "0", "10", "10", "80"]


def test_responsibilities_without_a_known_mode_are_refused():
    with pytest.raises(ValueError, match="mode=-1 for every task"):
        responsibilities_by_mode(torch.ones(2, 1), torch.tensor([-1, -1]), NAMES)


def test_one_code_and_a_mode_without_tasks_still_make_a_figure():
    render(responsibilities_by_mode(torch.ones(4, 1), torch.tensor([0, 0, 1, 1]), NAMES))


def test_embeddings_lie_on_their_principal_components_coloured_by_mode():
    generator = torch.Generator().manual_seed(0)
    mode = torch.arange(60) % 4 - 1
    plane = torch.randn(60, 2, generator=generator).double() * torch.tensor([3.0, 1.0])
    plane = plane - plane.mean(0)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator).double()).Q
    figure = embeddings_by_mode(plane @ rotation[:2] + 7, mode, NAMES)
    render(figure)
    (axes,) = figure.axes
    drawn = {dots.get_label(): dots for dots in axes.collections}
    assert set(drawn) == {*NAMES, "unknown"}
    for one, name in enumerate(NAMES):
        # a rotation onto two components keeps every distance from the centre
        distance = np.linalg.norm(np.asarray(drawn[name].get_offsets()), axis=1)
        np.testing.assert_allclose(distance, plane[mode == one].norm(dim=1), rtol=1e-6)
        np.testing.assert_allclose(np.asarray(drawn[name].get_facecolor())[0, :3], to_rgb(PALETTE[one]))
    shares = [float(label.split("(")[1].split()[0]) for label in (axes.get_xlabel(), axes.get_ylabel())]
    assert sum(shares) == pytest.approx(100, abs=1)


def test_embeddings_of_one_component_are_refused():
    with pytest.raises(ValueError, match=r"embedding of shape \(3, 1\) must have at least 2 tasks and 2 components"):
        embeddings_by_mode(torch.zeros(3, 1), torch.zeros(3).long(), NAMES)


def test_calibration_of_uniform_pit_is_the_diagonal_and_flat():
    pit = torch.rand(5000, 4, generator=torch.Generator().manual_seed(0)).double()
    pit[::3, 2:] = math.nan
    figure = calibration(pit)
    render(figure)
    left, right = figure.axes
    level, observed = points(left.get_lines()[1]).T
    np.testing.assert_allclose(observed, level, atol=0.02)
    assert np.mean(heights(right)) == pytest.approx(1)
    np.testing.assert_allclose(heights(right), 1, atol=0.12)


def test_calibration_of_overconfident_predictions_lies_below_the_diagonal():
    pit = torch.tensor([[0.0, 1.0], [0.001, 1.0], [0.5, math.nan]]).double()
    figure = calibration(pit)
    left, right = figure.axes
    level, observed = points(left.get_lines()[1]).T
    np.testing.assert_allclose(observed, np.full_like(level, 1 / 3))
    assert "90 % intervals hold 33.3 %" in left.texts[0].get_text()
    assert [heights(right)[place] for place in (0, 10, -1)] == pytest.approx([20 / 3] * 3)
    render(calibration(pit[:1]))
    with pytest.raises(ValueError, match="num_tasks=0 must be at least 1"):
        calibration(pit[:0])


def test_running_mean_by_hand():
    np.testing.assert_allclose(running_mean(np.array([1.0, 2.0, 6.0, 3.0]), 3), [1.5, 3.0, 11 / 3, 4.5])
    np.testing.assert_allclose(running_mean(np.array([1.0, 2.0, 6.0]), 1), [1.0, 2.0, 6.0])


def test_learning_curve_shows_the_limit_and_leaves_out_what_is_not_finite():
    steps = list(range(10, 4010, 10))
    nll = [0.6 + 5 * math.exp(-step / 100) for step in steps]
    nll[7] = math.nan
    figure = learning_curve(steps, nll, bayes_nll=0.5)
    render(figure)
    (axes,) = figure.axes
    raw, smooth, limit = axes.get_lines()
    assert len(points(raw)) == len(points(smooth)) == 399
    assert points(limit)[0, 1] == 0.5 and "0.500" in str(limit.get_label())
    low, high = axes.get_ylim()
    assert low < 0.5 and 0.6 < high < 2.0  # the fall from 5.1 has left the plot
    assert axes.get_xlim() == (0, 4000)


@pytest.mark.parametrize(("steps", "nll"), [([0], [1.0]), ([1, 2], [-0.2, -0.2])])
def test_shortest_runs_have_a_learning_curve(steps, nll):
    figure = learning_curve(steps, nll)
    render(figure)
    assert len(figure.axes[0].get_lines()) == 2


@pytest.mark.parametrize(("steps", "nll"), [([], []), ([1, 2], [1.0]), ([1], [math.inf])])
def test_learning_curve_of_nothing_is_refused(steps, nll):
    with pytest.raises(ValueError, match=r"len\(steps\)=.* must be equal"):
        learning_curve(steps, nll)


def test_training_and_evaluation_do_not_import_matplotlib_and_figures_leave_pyplot_alone():
    code = """
import sys
import mcb, mcb.learner, mcb.limits, mcb.metrics, mcb.tasks.curves
assert "matplotlib" not in sys.modules
import mcb.figures
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
