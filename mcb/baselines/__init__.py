"""What a meta-learner has to beat: predictors that use a task's own points, or none.

A baseline is a function from tasks to their predictive distributions, so the learner's metrics apply to it as they are.
"""

from collections.abc import Callable

from mcb.baselines.averaged_process import gaussian_process, ridge_line
from mcb.baselines.maximum_likelihood import MaximumLikelihoodProcess
from mcb.baselines.training_mean import TrainingMean
from mcb.predictive import GaussianMixture
from mcb.types import Task

Baseline = Callable[[Task], GaussianMixture]


def fit_baselines(training_tasks: Task) -> dict[str, Baseline]:
    """All baselines by name, what they have to choose chosen on `training_tasks` (one output, `T` of some hundreds)."""
    return {
        "training mean": TrainingMean.fit(training_tasks),
        "ridge line": ridge_line().fit(training_tasks),
        "Gaussian process": MaximumLikelihoodProcess().fit(training_tasks),
        "averaged Gaussian process": gaussian_process(training_tasks.support_x.shape[-1]).fit(training_tasks),
    }
