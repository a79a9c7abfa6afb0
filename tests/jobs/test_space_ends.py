from itertools import combinations

from jobs.space_ends import asked, ends
from jobs.space_points import grid
from jobs.spaces import Asks, modes
from jobs.tune_plan import LEARNING_RATE
from jobs.tune_schedulers import within


def test_any_two_answers_at_the_ends_of_their_ranges_are_tried_together():
    def pairs(points) -> set:
        return {pair for point in points for pair in combinations(point.items(), 2)}

    found = ends(modes)
    assert pairs(found) == pairs(grid(modes, 2))
    assert len(found) < 200


def test_what_a_space_asks_about_a_setting_is_known_on_all_its_branches():
    def forked(ask: Asks) -> None:
        if ask.suggest_categorical("a", ("x", "y")) == "x":
            ask.suggest_float("b", 1.0, 2.0)
        else:
            ask.suggest_float("b", 0.5, 1.5)
        ask.suggest_categorical("c", (3,))

    assert asked(forked, "a") == (("x", "y"), False)
    assert asked(forked, "b") == ((0.5, 2.0), True)
    assert not asked(forked, "c").values and not asked(forked, "d").values


def test_pbt_stays_within_the_range_of_the_space():
    clip = within((1e-3, 1e-2))
    for rate, clipped in ((5e-4, 1e-3), (2e-3, 2e-3), (0.012, 1e-2)):
        assert clip({"number": 1, "point": {LEARNING_RATE: rate, "z": 1}}) == {
            "number": 1,
            "point": {LEARNING_RATE: clipped, "z": 1},
        }
