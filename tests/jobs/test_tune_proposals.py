import random
from statistics import mean

import pytest

from jobs.search.importance import importances
from jobs.search.proposals import Proposals, Searcher, grid_size, objectives, pareto_front, study_of
from jobs.search.spaces import Asks, modes
from jobs.search.trials import Report, State, Trial, Trials


def bowl(ask: Asks) -> None:
    """A conditional space whose best point is x=3 of the left kind."""
    if ask.suggest_categorical("modes.kind", ("left", "right")) == "left":
        ask.suggest_float("x", 0.0, 10.0)
    else:
        ask.suggest_int("y", 1, 64, log=True)


def height(point) -> float:
    return (point["x"] - 3) ** 2 if "x" in point else 20 + point["y"]


def trial(
    number: int, point, objective: float, state: State = "finished", seconds: float = 1.0, num_steps: int = 10
) -> Trial:
    report = Report(num_steps=num_steps, objective=objective, seconds=seconds, num_modes=number)
    return Trial(number=number, point=point, state=state, reports=(report,))


def search(searcher: Searcher, seed: int, num_trials: int = 24) -> list[Trial]:
    propose = Proposals(bowl, searcher, seed, num_trials, {"modes.kind": "right", "y": 64})
    trials: list[Trial] = []
    for number in range(num_trials):
        point = propose(number, trials)
        trials.append(trial(number, point, height(point)))
    return trials


def test_tpe_finds_lower_points_than_random_search():
    last = {
        name: [mean(t.reports[-1].objective for t in search(name, seed)[12:]) for seed in range(5)]
        for name in ("tpe", "random")
    }
    assert max(last["tpe"]) < min(last["random"])


@pytest.mark.parametrize("searcher", ["tpe", "random"])
def test_a_search_starts_at_the_recipe_and_is_a_function_of_its_seed(searcher: Searcher):
    first = search(searcher, 1, 8)
    assert first[0].point == {"modes.kind": "right", "y": 64}
    assert [t.point for t in first] == [t.point for t in search(searcher, 1, 8)]
    assert [t.point for t in first] != [t.point for t in search(searcher, 2, 8)]


def test_a_grid_search_visits_every_point_once():
    propose = Proposals(bowl, "grid", 0, grid_size(bowl), {})
    points = [str(propose(number, ())) for number in range(grid_size(bowl))]
    assert len(set(points)) == len(points) == 3 + 3


def test_failed_and_running_trials_are_taken_into_account_and_two_objectives_too():
    trials = [trial(n, {"modes.kind": "left", "x": float(n)}, float(n)) for n in range(8)]
    trials[3] = Trial(number=3, point=trials[3].point, state="failed", error="it diverged")
    trials[4] = Trial(number=4, point=trials[4].point)
    for second in (None, "seconds"):
        point = Proposals(bowl, "tpe", 0, 24, {}, second)(8, trials)
        assert set(point) in ({"modes.kind", "x"}, {"modes.kind", "y"})


def test_a_trial_that_was_ended_early_is_not_the_faster_for_it():
    trials = [
        trial(0, {"modes.kind": "left", "x": 1.0}, 1.0, seconds=20.0, num_steps=10),
        trial(1, {"modes.kind": "left", "x": 2.0}, 2.0, seconds=6.0, num_steps=2, state="stopped"),
    ]
    assert [t.values for t in study_of(bowl, trials, "seconds").trials] == [[1.0, 20.0], [2.0, 30.0]]
    assert [t.values for t in study_of(bowl, trials, "num-modes").trials] == [[1.0, 0.0], [2.0, 1.0]]


def test_the_pareto_front_is_what_no_trial_beats_in_both():
    generator = random.Random(0)
    trials = [trial(n, {}, generator.random(), seconds=generator.random()) for n in range(40)]
    front = pareto_front(trials, "seconds")
    pairs = {t.number: objectives(t, "seconds") for t in trials}
    for t in trials:
        (a, b) = pairs[t.number]
        beaten = any(c <= a and d <= b and (c, d) != (a, b) for c, d in pairs.values())
        assert (t in front) == (not beaten)
    assert [pairs[t.number] for t in front] == sorted(pairs[t.number] for t in front)


def test_trials_survive_on_disk_and_those_that_came_furthest_lead(tmp_path):
    trials = Trials(tmp_path)
    trials.put(trial(0, {"modes.kind": "single"}, 0.9))
    trials.put(trial(1, {}, 0.8, state="stopped", num_steps=3))
    trials.put(trial(2, {}, 0.7))
    trials.put(Trial(number=3, point={}, state="failed", error="no"))
    trials.put(Trial(number=4, point={}))
    again = Trials(tmp_path)
    assert list(again) == list(trials) and len(again) == 5
    assert [t.number for t in again.ranked] == [2, 0, 1]
    assert again.best == again[2]
    assert [t.number for t in again.of_state("running")] == [4]


def test_the_setting_that_decides_is_the_important_one_even_where_only_some_trials_have_it():
    propose = Proposals(modes, "random", 0, 60, {"modes.kind": "single"})
    points = [propose(number, ()) for number in range(60)]
    by_rate = importances(points, [float(str(point.get("optimizer.learning_rate", 0))) for point in points])
    assert next(iter(by_rate)) == "optimizer.learning_rate" and by_rate["optimizer.learning_rate"] > 0.8
    by_size = importances(points, [float(str(point.get("modes.num_modes", 32))) for point in points])
    assert next(iter(by_size)) == "modes.num_modes"
    assert sum(by_size.values()) == pytest.approx(1)
    assert importances(points[:3], [1.0, 2.0, 3.0]) == {}
    assert importances(points, [1.0] * 60)
