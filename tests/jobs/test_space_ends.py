from itertools import combinations

from jobs.search.space_ends import asked, ends
from jobs.search.space_points import grid
from jobs.search.spaces import Asks, modes


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
