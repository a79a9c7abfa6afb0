"""Baselines: closed forms, a second implementation, and calibration where their assumptions hold."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from torch import Tensor
from torch.distributions import MultivariateNormal

from mcb.baselines import fit_baselines
from mcb.baselines.averaged_process import AveragedProcess, gaussian_process, ridge_line
from mcb.baselines.maximum_likelihood import MaximumLikelihoodProcess
from mcb.baselines.training_mean import TrainingMean
from mcb.metrics import coverage, score
from mcb.randomness import fold_in
from mcb.types import Task


def random_tasks(num_tasks: int = 5, num_support: int = 6, num_query: int = 7, x_size: int = 2) -> Task:
    """Unrelated Gaussian numbers in float64, no point masked."""
    generator = fold_in(0, "baselines")
    draw = (num_tasks, num_support + num_query)
    x = torch.randn(*draw, x_size, generator=generator, dtype=torch.float64)
    y = torch.randn(*draw, 1, generator=generator, dtype=torch.float64)
    return make_tasks(x, y, num_support)


def make_tasks(x: Tensor, y: Tensor, num_support: int) -> Task:
    present = torch.ones(x.shape[:2], dtype=torch.bool)
    s, mode = num_support, torch.zeros(len(x), dtype=torch.int64)
    return Task(x[:, :s], y[:, :s], present[:, :s], x[:, s:], y[:, s:], present[:, s:], mode)


def one_setting(process: AveragedProcess, log_noise: float, *settings: float) -> AveragedProcess:
    return replace(
        process,
        settings=torch.tensor([settings]).double(),
        log_noise=torch.tensor([log_noise]).double(),
        log_weights=torch.zeros(1).double(),
    )


def draw_from(process: AveragedProcess, x: Tensor, key: str) -> Tensor:
    """Targets of each task from a setting of its own, drawn with the process's weights."""
    generator = fold_in(0, key)
    setting = torch.multinomial(process.log_weights.exp(), len(x), replacement=True, generator=generator)
    covariance = process.kernel(process.settings, x, x)[torch.arange(len(x)), setting]
    covariance = covariance + process.log_noise[setting].exp()[:, None, None] * torch.eye(x.shape[1])
    noise = torch.randn(*x.shape[:2], 1, generator=generator, dtype=torch.float64)
    return torch.linalg.cholesky(covariance) @ noise


def test_training_mean_has_the_moments_of_tasks_that_count_the_same():
    tasks = random_tasks(num_tasks=2, num_support=1, num_query=3)
    tasks = tasks._replace(
        support_y=torch.tensor([0.0, 10.0]).double().view(2, 1, 1),
        query_y=torch.tensor([[2.0, 99.0, 99.0], [10.0, 10.0, 10.0]]).double().unsqueeze(-1),
        query_mask=torch.tensor([[True, False, False], [True, True, True]]),
    )
    baseline = TrainingMean.fit(tasks)
    # Task means 1 and 10; squared deviations from 5.5: (5.5^2 + 3.5^2) / 2 and 4.5^2.
    torch.testing.assert_close(baseline.mean, torch.tensor([5.5]).double())
    torch.testing.assert_close(baseline.log_scale.exp().square(), torch.tensor([(21.25 + 20.25) / 2]).double())
    predictive = baseline(tasks)
    normal = torch.distributions.Normal(5.5, math.sqrt(20.75))
    torch.testing.assert_close(predictive.log_density(tasks.query_y), normal.log_prob(tasks.query_y).squeeze(-1))


@pytest.mark.parametrize("make", [ridge_line, lambda: gaussian_process(2)])
def test_evidence_is_the_density_of_the_support_and_prediction_its_conditional(make):
    tasks, process = random_tasks(), make()
    log_evidence, mean, log_scale = process.condition(tasks)
    x, y = torch.cat([tasks.support_x, tasks.query_x], 1), tasks.support_y.squeeze(-1)
    for n in (0, 100, 255):
        noise = process.log_noise[n].exp() * torch.eye(x.shape[1])
        joint = process.kernel(process.settings[n : n + 1], x, x)[:, 0] + noise
        s = y.shape[1]
        expected = MultivariateNormal(torch.zeros_like(y), joint[:, :s, :s]).log_prob(y)
        torch.testing.assert_close(log_evidence[:, n], expected, rtol=1e-7, atol=1e-7)
        gain = joint[:, s:, :s] @ torch.linalg.inv(joint[:, :s, :s])
        torch.testing.assert_close(mean[:, n], (gain @ tasks.support_y).squeeze(-1), rtol=1e-6, atol=1e-6)
        variance = (joint[:, s:, s:] - gain @ joint[:, :s, s:]).diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(torch.exp(2 * log_scale[:, n]), variance, rtol=1e-6, atol=1e-8)


def test_one_setting_of_the_gaussian_process_is_that_of_scikit_learn():
    tasks = random_tasks()
    process = one_setting(gaussian_process(2), math.log(0.2), math.log(1.5), math.log(0.7), math.log(1.3))
    predictive = process(tasks)
    kernel = ConstantKernel(1.5) * RBF().set_params(length_scale=[0.7, 1.3]) + WhiteKernel(0.2)
    for t in range(len(tasks.mode)):
        reference = GaussianProcessRegressor(kernel).set_params(optimizer=None, alpha=1e-14)
        reference.fit(tasks.support_x[t].numpy(), tasks.support_y[t, :, 0].numpy())
        mean, scale = reference.predict(tasks.query_x[t].numpy(), return_std=True)
        torch.testing.assert_close(predictive.mean[t, 0, :, 0], torch.from_numpy(mean))
        torch.testing.assert_close(predictive.log_scale[t, 0, :, 0].exp(), torch.from_numpy(scale))


def test_one_setting_of_the_ridge_line_is_ridge_regression():
    tasks = random_tasks(x_size=3)
    noise, intercept, slope = 0.3, 2.0, 0.5
    predictive = one_setting(ridge_line(), math.log(noise), math.log(intercept), math.log(slope))(tasks)
    penalty = noise * torch.diag(torch.tensor([1 / intercept] + 3 * [1 / slope]).double())
    for t in range(len(tasks.mode)):
        design, query = (torch.cat([torch.ones(len(x), 1), x], 1) for x in (tasks.support_x[t], tasks.query_x[t]))
        inverse = torch.linalg.inv(design.T @ design + penalty)
        torch.testing.assert_close(predictive.mean[t, 0], query @ inverse @ design.T @ tasks.support_y[t])
        variance = noise + noise * (query @ inverse @ query.T).diagonal()
        torch.testing.assert_close(predictive.log_scale[t, 0, :, 0], 0.5 * variance.log())


def test_a_masked_support_point_is_no_point():
    tasks, process = random_tasks(), gaussian_process(2)
    present = torch.tensor([True, False, True, True, False, True])
    masked = tasks._replace(support_mask=present.expand(5, 6))
    fewer = tasks._replace(
        support_x=tasks.support_x[:, present],
        support_y=tasks.support_y[:, present],
        support_mask=tasks.support_mask[:, present],
    )
    for found, wanted in zip(process.condition(masked), process.condition(fewer), strict=True):
        torch.testing.assert_close(found, wanted)
    baseline = MaximumLikelihoodProcess()
    torch.testing.assert_close(baseline(masked), baseline(fewer))


def test_settings_are_weighted_by_bayes_rule():
    tasks = random_tasks()
    process = gaussian_process(2)
    process = replace(process, log_weights=torch.log_softmax(torch.linspace(-3, 3, 256).double(), 0))
    joint = process.log_weights.exp() * process.condition(tasks)[0].exp()
    torch.testing.assert_close(process(tasks).log_weights.exp(), joint / joint.sum(1, keepdim=True))


def test_fitting_raises_the_evidence_and_reads_no_query():
    tasks, process = random_tasks(num_tasks=40, x_size=1), gaussian_process(1)
    fitted = process.fit(tasks)

    def log_evidence(process: AveragedProcess) -> float:
        return torch.logsumexp(process.log_weights + process.condition(tasks)[0], 1).sum().item()

    equal = torch.full((64,), -math.log(64), dtype=torch.float64)
    assert log_evidence(fitted) > log_evidence(replace(fitted, log_weights=equal)) + 1
    assert log_evidence(fitted) > log_evidence(process) + 1
    assert len(fitted.log_weights) == len(fitted.log_noise) == len(fitted.settings) == 64
    assert fitted.log_weights.exp().sum().item() == pytest.approx(1)
    other = process.fit(tasks._replace(query_x=-tasks.query_x, query_y=tasks.query_y + 5))
    assert torch.equal(fitted.log_weights, other.log_weights)


def test_fitting_finds_the_noise_of_the_training_tasks():
    x = 4 * torch.rand(100, 20, 1, generator=fold_in(0, "x"), dtype=torch.float64) - 2
    truth = one_setting(gaussian_process(1), math.log(0.01), 0.0, 0.0)
    fitted = gaussian_process(1).fit(make_tasks(x, draw_from(truth, x, "truth"), 19))
    scale = (fitted.log_weights.exp() * fitted.log_noise.exp()).sum().sqrt().item()
    assert scale == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("make", [ridge_line, lambda: gaussian_process(1)])
def test_intervals_are_calibrated_on_draws_from_the_process_itself(make):
    process = make()
    x = 4 * torch.rand(1500, 6, 1, generator=fold_in(0, "x"), dtype=torch.float64) - 2
    tasks = make_tasks(x, draw_from(process, x, "calibration"), 5)
    pit = process(tasks).cdf(tasks.query_y).flatten(1)
    for level in (0.5, 0.9):
        # One query point a task: independent, so four standard errors fail once in 16,000 runs (of other seeds).
        error = math.sqrt(level * (1 - level) / 1500)
        assert abs(coverage(pit, level).mean().item() - level) < 4 * error


def test_maximum_likelihood_with_nothing_to_choose_is_the_process_of_that_setting():
    tasks = random_tasks()
    signal, length, noise = ((value, value * (1 + 1e-9)) for value in (1.5, 0.7, 0.1))
    fixed = MaximumLikelihoodProcess(signal, length, noise)
    setting = one_setting(gaussian_process(2), math.log(0.1), math.log(1.5), math.log(0.7), math.log(0.7))
    for found, wanted in zip(fixed(tasks), setting(tasks), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_maximum_likelihood_finds_the_setting_from_many_points():
    x = 4 * torch.rand(4, 100, 1, generator=fold_in(0, "x"), dtype=torch.float64) - 2
    truth = one_setting(gaussian_process(1), math.log(0.09), math.log(2.0), math.log(0.8))
    tasks = make_tasks(x, draw_from(truth, x, "truth"), 80)
    found, wanted = MaximumLikelihoodProcess()(tasks), truth(tasks)
    assert (found.mean - wanted.mean).square().mean().sqrt() < 0.05
    torch.testing.assert_close(found.log_scale, wanted.log_scale, rtol=0, atol=0.25)


@pytest.mark.parametrize(("scale", "floor"), [(0.01, 0.01), (1.0, 0.1)])
def test_the_floor_of_the_noise_follows_the_training_tasks(scale: float, floor: float):
    x = 4 * torch.rand(20, 12, 1, generator=fold_in(0, "x"), dtype=torch.float64) - 2
    noise = torch.randn(20, 12, 1, generator=fold_in(0, "noise"), dtype=torch.float64)
    fitted = MaximumLikelihoodProcess().fit(make_tasks(x, torch.sin(x) + scale * noise, 8))
    assert fitted.noise_range == (floor, 2.0)


def test_every_baseline_is_a_pure_function_of_each_task():
    tasks = Task(*(leaf.float() if leaf.is_floating_point() else leaf for leaf in random_tasks(num_tasks=12)))
    some = torch.tensor([10, 2, 5])
    baselines = fit_baselines(tasks)
    assert list(baselines) == ["training mean", "ridge line", "Gaussian process", "averaged Gaussian process"]
    for baseline in baselines.values():
        whole = baseline(tasks)
        assert whole.mean.dtype == torch.float32
        torch.testing.assert_close(whole.log_weights.exp().sum(-1), torch.ones(12))
        for found, wanted in zip(baseline(Task(*(leaf[some] for leaf in tasks))), whole, strict=True):
            torch.testing.assert_close(found, wanted[some])
        scores = score(whole, tasks, torch.ones(12, 1))
        assert scores.nll.isfinite().all()
        assert scores.crps.isfinite().all()


@pytest.mark.parametrize("baseline", [ridge_line(), gaussian_process(2), MaximumLikelihoodProcess()])
def test_two_outputs_are_refused(baseline):
    tasks = random_tasks()
    tasks = tasks._replace(support_y=tasks.support_y.expand(-1, -1, 2))
    with pytest.raises(ValueError, match=r"^y_size=2 must be 1: a process has one output$"):
        baseline(tasks)
