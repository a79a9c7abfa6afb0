from collections.abc import Sequence
from itertools import islice
from unittest.mock import Mock

import pytest

from jobs.building.objects import build_plan
from jobs.errors import UsageError
from jobs.search.space_file import make_space, read_space
from jobs.search.space_points import Noted, answered, grid, point_of, settings_at
from jobs.search.spaces import SPACES, Asks, Value
from jobs.settings.file import flatten
from jobs.settings.recipes import recipe

FIVE = recipe("five-modes")


@pytest.mark.parametrize("name", SPACES)
def test_every_point_of_a_named_space_is_a_run_that_can_be_built(name: str):
    for point in islice(grid(SPACES[name], 2), 0, None, 13):
        settings = settings_at(FIVE, point)
        build_plan(settings, "unused", "", resume=False)
        flat = flatten(settings.model_dump())
        assert {path: flat[path] for path in point} == point


@pytest.mark.parametrize("name", SPACES)
def test_the_flagship_itself_is_a_point_of_the_named_spaces(name: str):
    assert settings_at(FIVE, point_of(SPACES[name], FIVE)) == FIVE


def test_a_grid_has_each_combination_once():
    def space(ask: Asks) -> None:
        if ask.suggest_categorical("a", ("x", "y")) == "x":
            ask.suggest_float("b", 1.0, 100.0, log=True)
        ask.suggest_int("c", 1, 9, step=4)

    points = list(grid(space, 3))
    assert len(points) == 3 * 3 + 3
    assert len({str(point) for point in points}) == len(points)
    assert {point.get("b") for point in points} == {None, 1.0, 10.0, 100.0}
    assert {point["c"] for point in points} == {1, 5, 9}


def test_a_file_replaces_questions_fixes_settings_and_asks_its_own_where_they_apply():
    questions = {
        "modes.num_modes": {"low": 2, "high": 4},
        "train.meta_batch": 100,
        "encoder.hidden": [16, 32],
        "network.hidden": [[32, 32, 8], "64,64,18"],
        "modes.strategy": "k-means",
        "modes.representation": ["statistics", "embedding"],
        "optimizer.learning_rate": 0.002,
    }
    space = make_space({"extends": "modes", "settings": questions}, FIVE)
    points = list(grid(space, 3))
    codebooks = [point for point in points if point["modes.kind"] == "codebook"]
    assert {point["modes.num_modes"] for point in codebooks} == {2, 3, 4}
    assert not any("encoder.hidden" in point for point in codebooks)
    assert {point.get("encoder.hidden") for point in points if point["modes.kind"] == "embedding"} == {16, 32}
    for point in points[::301]:
        settings = settings_at(FIVE, point)
        assert settings.train.meta_batch == 100
        assert settings.network.hidden in ((32, 32, 8), (64, 64, 18))


def test_a_question_with_one_answer_is_put_to_nobody():
    def space(ask: Asks) -> None:
        ask.suggest_categorical("modes.kind", ("codebook",))

    class Nobody(Noted):
        def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
            raise AssertionError

    assert answered(space, Nobody(Mock())) == {"modes.kind": "codebook"}


REFUSED = [
    ({"settings": {"modes.num_mode": 3}}, "unknown setting modes.num_mode; did you mean modes.num_modes"),
    ({"settings": {"optimizer.learning_rate": {"low": -1, "high": 1}}}, "learning_rate=-1.* above 0 and at most 1000"),
    ({"settings": {"modes.num_modes": [8, 5000]}}, "modes.num_modes=5000 .* from 1 to 4,096"),
    ({"settings": {"seed": {"low": 1}}}, "seed.high: field required"),
    ({"settings": {"seed": {"low": 3, "high": 1}}}, "low=3 must be at most high=1"),
    ({"settings": {"seed": []}}, "seed is an empty list"),
    ({"settings": {"modes.kind": "cluster"}}, "modes.kind=cluster .* must be one of codebook"),
    ({"extends": "mode", "settings": {}}, "unknown space 'mode'.*did you mean modes"),
]


@pytest.mark.parametrize(("tree", "message"), REFUSED)
def test_a_space_that_fits_no_setting_is_refused(tree: dict, message: str):
    with pytest.raises(UsageError, match=message):
        make_space(tree, FIVE)


@pytest.mark.parametrize("text", ["settings: 3", "other: 1\nsettings: {}", "[", "- a"])
def test_a_file_that_is_no_space_is_refused(tmp_path, text: str):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"the space .*space.yaml"):
        read_space(str(tmp_path / "space.yaml"))
