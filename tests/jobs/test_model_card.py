import re

import pytest

from jobs.building.objects import build_source
from jobs.models.card import model_card
from jobs.settings.tree import CurveTasks, RegressionTasks, Settings

TRAINED = {"run_id": "abc", "num_tasks": 3600, "num_steps": 20, "train_seconds": 1.2}
REGRESSION = RegressionTasks(families=("sinusoid", "linear"), noise_scale=0.4)


def row(nll: float) -> dict[str, float]:
    return {"nll": nll, "nll_ci": 0.01, "mse": 2 * nll, "coverage_50": 0.5, "coverage_90": 0.912, "num_tasks": 30}


BESIDE_BAYES = {
    **row(0.7),
    "modes": {"sinusoid": row(0.9), "linear": row(0.5)},
    "bayes": {"nll": 0.6, "nll_ci": 0.02, "num_tasks": 20},
    "excess_nll": 0.1,
    "excess_nll_ci": 0.003,
    "mse_ratio": 1.5,
    "mode_accuracy": 0.8,
}
BESIDE_BASELINES = {
    **row(0.7),
    "modes": {"lines": row(1.0), "parabolas": row(0.4)},
    "families": {"lines": row(0.2), "parabolas": row(0.8), "pooled": row(0.7)},
    "baselines": {"Gaussian process": {"lines": row(1.1), "parabolas": row(1.3), "pooled": row(1.2)}},
}


@pytest.fixture(params=["regression", "curves"])
def card(request, curves_file) -> str:
    is_regression = request.param == "regression"
    settings = Settings(recipe="small", tasks=REGRESSION if is_regression else CurveTasks(path=str(curves_file)))
    figures = TRAINED | {"evaluation": BESIDE_BAYES if is_regression else BESIDE_BASELINES}
    return model_card(settings, build_source(settings, "test"), figures, {"torch": "2.13.0"})


@pytest.mark.parametrize("card", ["regression"], indirect=True)
def test_synthetic_tasks_are_set_beside_the_bayes_limit(card):
    assert "|  | 30 tasks | Bayes-optimal, 20 tasks | this against it |" in card
    assert "| NLL, nats per query point | 0.700 ± 0.010 | 0.600 ± 0.020 | + 0.100 ± 0.003 |" in card
    assert "| MSE | 1.400 |  | × 1.500 |" in card
    assert "| sinusoid | 0.900 ± 0.010 | 1.800 | 91.2 % |" in card
    assert "outside -5 to 5, nor noise of y other than 0.4" in card
    assert "weakest at sinusoid: NLL 0.900 ± 0.010" in card
    assert "tells the family of 80.0 %" in card


@pytest.mark.parametrize("card", ["curves"], indirect=True)
def test_measured_curves_are_set_beside_the_baselines(card):
    assert "| NLL of Gaussian process | 1.200 ± 0.010 |" in card
    assert "| parabolas | 0.800 ± 0.010 |" in card
    assert "| pooled" not in card
    assert "weakest at parabolas: NLL 0.800" in card
    assert "in the units of the file" in card


def test_tables_are_whole_and_nothing_is_left_empty(card):
    assert "![" in card and "](figures/calibration.png)" in card
    assert not re.search(r"None|nan|\{|\}", card.replace('{"level": 0.9}', ""))
    tables = re.findall(r"(?:^\|.*\|\n)+", card, flags=re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert len(re.findall("```", card)) % 2 == 0


def test_every_example_of_the_card_names_the_run_and_the_model(card):
    assert 'Predictor.load("runs:/abc")' in card
    assert 'load_model("runs:/abc/small")' in card
    assert "mcb register abc --name small\nmlflow models serve -m models:/small@champion" in card
