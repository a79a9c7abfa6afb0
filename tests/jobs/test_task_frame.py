import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cluster.errors import UserError
from jobs.models.task_frame import answer
from mcb import BaseNetwork, Categorical, Codebook, GradientDescent, ModeConditionalBayesianMAML, PriorHypernetwork
from mcb.evidence_reference import DrawTasks
from mcb.likelihoods import Gaussian, Likelihood
from mcb.predictor import Predictor


def predictor(
    x_size: int = 1, y_size: int = 1, likelihood: Likelihood | None = None, draw: DrawTasks | None = None
) -> Predictor:
    """An untrained one with two modes."""
    torch.manual_seed(0)
    likelihood = Gaussian() if likelihood is None else likelihood
    model = BaseNetwork(nn.Linear(x_size, y_size))
    hypernetwork = PriorHypernetwork(3, model, num_offsets=likelihood.num_offsets)
    learner = ModeConditionalBayesianMAML(
        None,
        hypernetwork,
        model,
        modes=Codebook(2, 3),
        inference=GradientDescent(num_steps=2, step_size=0.1, num_particles=1, prior_noise=False),
        likelihood=likelihood,
    )
    return Predictor(learner, x_size, y_size, draw=draw)


def table(**columns: list) -> pd.DataFrame:
    return pd.DataFrame({"set": ["support", "query", "support", "query"], **columns}, index=[7, 3, 9, 1])


def test_without_a_task_column_all_rows_are_one_task():
    answers = answer(predictor(), table(x=[0.0, 1.0, 2.0, 3.0], y=[1.0, None, 2.0, None]), level=0.8)
    posterior = predictor().adapt([0.0, 2.0], [1.0, 2.0])
    assert list(answers.columns) == ["mean", "lower", "upper", "mode", "mode_probability", "unusual"]
    assert list(answers.index) == [3, 1]
    np.testing.assert_allclose(answers["mean"], posterior.predict([1.0, 3.0]).mean)
    np.testing.assert_allclose(answers["upper"], posterior.predict([1.0, 3.0]).interval(0.8)[1])
    assert answers["unusual"].tolist() == [None, None]
    no_reference = answer(predictor(draw=lambda *_: None), table(x=[0.0, 1.0, 2.0, 3.0], y=[1.0, None, 2.0, None]))
    assert no_reference["unusual"].tolist() == [None, None]
    assert set(answers["mode"]) <= {"mode 0", "mode 1"}


def test_tasks_are_told_apart_by_any_value_and_a_task_that_asks_nothing_gets_nothing():
    points = table(x=[0.0, 1.0, 2.0, 3.0], y=[1.0, None, 2.0, None], task=[5, 5, None, None])
    more = pd.DataFrame({"set": ["support"], "x": [1.0], "y": [1.0], "task": ["idle"]}, index=[20])
    answers = answer(predictor(), pd.concat([points, more]))
    assert list(answers.index) == [3, 1]
    first, second = answers["task"].tolist()
    assert first == 5
    assert pd.isna(second)
    alone = predictor().adapt([2.0], [2.0]).predict([3.0])
    assert answers["mean"].tolist()[1] == pytest.approx(alone.mean[0])


def test_several_inputs_and_targets_are_numbered():
    points = table(x1=[0.0, 1.0, 2.0, 3.0], x2=[1.0, 1.0, 0.0, 0.0], y1=[1.0, None, 2.0, None], y2=[0.0, None, 1, None])
    answers = answer(predictor(2, 2), points)
    prediction = predictor(2, 2).adapt([[0, 1], [2, 0]], [[1, 0], [2, 1]]).predict([[1, 1], [3, 0]])
    np.testing.assert_allclose(answers[["mean1", "mean2"]], prediction.mean)
    np.testing.assert_allclose(answers[["lower1", "lower2"]], prediction.interval(0.9)[0])


def test_classes_come_with_their_probabilities():
    classes = predictor(1, 3, Categorical(3))
    answers = answer(classes, table(x=[-1.0, 1.0, 2.0, 3.0], y=[0, None, 2, None]))
    expected = classes.adapt([-1.0, 2.0], [0, 2]).predict([1.0, 3.0]).probabilities
    np.testing.assert_allclose(answers[["probability_0", "probability_1", "probability_2"]], expected)
    assert answers["class"].tolist() == expected.argmax(1).tolist()
    assert "mean" not in answers


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": None}, "there is no column x: give a row for each point, with set, x, y"),
        ({"set": ["support", "qury", "support", "query"]}, "set=qury in row 1 must be support or query"),
        ({"set": ["support"] * 4}, "no row has set=query: there is nothing to predict"),
        ({"task": ["a", "b", "a", "a"]}, "task b has no row with set=support: give at least one, with its targets"),
        ({"y": [1.0, None, None, None]}, "y=nan in row 2 must be a finite number"),
        ({"x": [0.0, 1.0, 2.0, float("inf")]}, "x=inf in row 3 must be a finite number"),
        ({"x": ["a", "b", "c", "d"]}, "column x must hold numbers: could not convert string to float: 'a'"),
        ({"family": ["a", "a", "b", "b"]}, "task 0 must name one family in all its support rows"),
    ],
)
def test_what_cannot_be_answered_names_the_row_and_the_remedy(changed, message):
    columns = {"x": [0.0, 1.0, 2.0, 3.0], "y": [1.0, None, 2.0, None]} | changed
    points = table(**{name: values for name, values in columns.items() if values is not None})
    with pytest.raises(UserError, match=message):
        answer(predictor(), points)


@pytest.mark.parametrize("level", [0.0, 1.0, float("nan")])
def test_a_level_outside_0_to_1_is_refused(level):
    with pytest.raises(UserError, match=rf"level={level:g} must lie inside \(0, 1\)"):
        answer(predictor(), table(x=[0.0, 1.0, 2.0, 3.0], y=[1.0, None, 2.0, None]), level)
