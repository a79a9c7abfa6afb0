"""Few-shot tasks of measured curves: a pure, balanced stream in which every point has its turn."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from mcb.randomness import fold_key
from mcb.tasks.curves import CurveTasks
from mcb.tasks.long_form import split_of
from mcb.types import Task

NUM_POINTS = {"growth": 7, "storms": 12, "weather": 40}


def rows_of(family: str, num_tasks: int, num_points: int, num_inputs: int = 2) -> dict[str, np.ndarray]:
    """Rows of `num_tasks` curves; y is 1000 times the task plus the point, so that every point is known by its y."""
    task, point = np.divmod(np.arange(num_tasks * num_points), num_points)
    columns = {f"x{i}": np.sin(0.1 * i * point + task) for i in range(1, num_inputs + 1)}
    names = np.array([f"{family} {index}" for index in task])
    return {"family": np.full(len(task), family), "task": names, **columns, "y": 1000.0 * task + point}


def write(path: Path, *families: dict[str, np.ndarray]) -> Path:
    tables = [pa.table({name: pa.array(values) for name, values in family.items()}) for family in families]
    pq.write_table(pa.concat_tables(tables, promote_options="default"), path)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three families of 20, 30 and 25 curves with 7, 12 and 40 points; growth has one input."""
    path = tmp_path_factory.mktemp("curves") / "curves.parquet"
    sizes = {"growth": (20, 1), "storms": (30, 2), "weather": (25, 2)}
    return write(path, *(rows_of(name, num, NUM_POINTS[name], inputs) for name, (num, inputs) in sizes.items()))


def equal(a: Task, b: Task) -> bool:
    return all(torch.equal(left, right) for left, right in zip(a, b, strict=True))


def rows(tasks: Task, index: Tensor | slice) -> Task:
    return Task(*(leaf[index] for leaf in tasks))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_tasks_of_a_split_are_the_curves_whose_names_fall_there(path: Path, split: str):
    source = CurveTasks.from_parquet(path, split, num_support=3)
    sizes = {"growth": 20, "storms": 30, "weather": 25}
    names = [f"{family} {index}" for family, num in sizes.items() for index in range(num)]
    assert sorted(source.task_names) == sorted(name for name in names if split_of(name) == split)
    assert source.mode_names == ("growth", "storms", "weather")
    assert [source.mode_names[mode] for mode in source.mode] == [name.split()[0] for name in source.task_names]
    assert (source.x_size, source.y_size) == (2, 1)


def test_support_and_query_share_no_point_and_leave_none_out(path: Path):
    source = CurveTasks.from_parquet(path, num_support=3, num_query=50)
    tasks = source.sample(0, torch.arange(90))
    curve = source.curve(0, torch.arange(90))
    for t in range(90):
        points = torch.cat([tasks.support_y[t, tasks.support_mask[t]], tasks.query_y[t, tasks.query_mask[t]]])
        start, count = int(source.start[curve[t]]), int(source.count[curve[t]])
        assert torch.equal(points.sort(dim=0).values, source.y[start : start + count].sort(dim=0).values)
        assert tasks.support_mask[t].sum() == 3


def test_inputs_stay_with_their_targets(path: Path):
    source = CurveTasks.from_parquet(path, num_support=3, num_query=20)
    pairs = {tuple(row) for row in torch.cat([source.x, source.y], dim=1).tolist()}
    tasks = source.sample(1, torch.arange(30))
    for x, y, mask in [(tasks.support_x, tasks.support_y, tasks.support_mask), tasks[3:6]]:
        assert {tuple(row) for row in torch.cat([x, y], dim=-1)[mask].tolist()} <= pairs


def test_at_most_num_query_points_are_query_and_the_rest_of_the_places_is_masked(path: Path):
    source = CurveTasks.from_parquet(path, num_support=4, num_query=10)
    tasks = source.sample(0, torch.arange(60))
    assert tasks.support_x.shape == (60, 4, 2)
    assert tasks.query_y.shape == (60, 10, 1)
    expected = torch.tensor([min(num - 4, 10) for num in NUM_POINTS.values()])
    assert torch.equal(tasks.query_mask.sum(1), expected[tasks.mode])
    assert tasks.query_x[~tasks.query_mask].eq(0).all()
    assert tasks.query_y[~tasks.query_mask].eq(0).all()
    assert (tasks.support_x.dtype, tasks.mode.dtype) == (torch.float32, torch.int64)


def test_an_input_that_a_family_lacks_is_zero(path: Path):
    tasks = CurveTasks.from_parquet(path, num_support=3).sample(0, torch.arange(30))
    growth = tasks.mode == 0
    assert tasks.support_x[growth, :, 1].eq(0).all()
    assert tasks.support_x[~growth, :, 1].ne(0).all()


def test_a_task_does_not_depend_on_its_batch(path: Path):
    source = CurveTasks.from_parquet(path, num_support=3)
    seed = fold_key(7, "train")
    wanted = source.sample(seed, torch.arange(200))
    for chosen in [torch.arange(150, 200), torch.tensor([199, 3, 77, 3]), torch.tensor([0]), torch.tensor([121])]:
        assert equal(source.sample(seed, chosen), rows(wanted, chosen))
    again = pickle.loads(pickle.dumps(source))
    assert equal(again.sample(seed, torch.arange(200)), wanted)


def test_seeds_give_unlike_streams(path: Path):
    source = CurveTasks.from_parquet(path, num_support=3)
    a, b = (source.sample(fold_key(seed, "train"), torch.arange(60)) for seed in (0, 1))
    assert torch.equal(a.mode, b.mode)
    assert (a.support_y != b.support_y).any(dim=(1, 2)).double().mean() > 0.9


def test_families_take_turns_and_every_curve_comes_once_a_round(path: Path):
    source = CurveTasks.from_parquet(path, num_support=3)
    assert torch.equal(source.sample(0, torch.arange(300)).mode, torch.arange(300) % 3)
    for family in range(3):
        members = (source.mode == family).nonzero().flatten()
        num = len(members)
        visited = source.curve(5, family + 3 * torch.arange(4 * num)).unflatten(0, (4, num))
        assert all(torch.equal(each.sort().values, members) for each in visited)
        assert not torch.equal(visited[0], visited[1])


@pytest.mark.parametrize("num_rounds", [1, 3])
def test_every_task_visits_all_curves_equally_often(path: Path, num_rounds: int):
    source = CurveTasks.from_parquet(path, "test", num_support=3)
    indices = source.every_task(num_rounds)
    assert torch.equal(indices, indices.unique())
    visits = torch.bincount(source.curve(fold_key(0, "test"), indices), minlength=len(source.task_names))
    assert visits.eq(num_rounds).all()


@pytest.fixture
def one_curve(tmp_path: Path) -> CurveTasks:
    """A single training curve of 20 points, 5 of them support and 5 query."""
    columns = rows_of("a", 1, 20) | {"task": np.full(20, "curve 71")}
    return CurveTasks.from_parquet(write(tmp_path / "one.parquet", columns), num_support=5, num_query=5)


def test_each_task_of_each_seed_has_its_own_choice_of_points(one_curve: CurveTasks):
    choices = torch.cat([one_curve.sample(fold_key(seed, "train"), torch.arange(20)).support_y for seed in (0, 1)])
    # Two of 40 ordered choices among 20 * 19 * 18 * 17 * 16 agree with probability 4e-4.
    assert len(choices.flatten(1).unique(dim=0)) == 40


def test_every_point_of_a_curve_is_as_likely_to_be_support(one_curve: CurveTasks):
    source, tasks = one_curve, one_curve.sample(0, torch.arange(8000))
    for y, mask in [(tasks.support_y, tasks.support_mask), (tasks.query_y, tasks.query_mask)]:
        counts = torch.stack([(y == value).sum() for value in source.y.flatten()]).double()
        assert mask.all()
        # 40,000 places over 20 points; without replacement the statistic below is chi-squared with 19 degrees of
        # freedom, which exceeds 50.8 once in 10,000 times.
        assert (counts - 2000).square().sum() / (2000 * 0.75) * 19 / 20 < 50.8


def test_curves_without_a_point_for_the_query_are_left_out(path: Path):
    source = CurveTasks.from_parquet(path, num_support=7)
    assert {source.mode_names[mode] for mode in source.mode} == {"storms", "weather"}
    tasks = source.sample(0, torch.arange(6))
    assert tasks.mode.tolist() == [1, 2, 1, 2, 1, 2]
    assert tasks.query_mask.any(1).all()


def test_a_test_value_changes_no_training_task(path: Path, tmp_path: Path):
    table = pq.read_table(path).to_pydict()
    outside = [split_of(name) != "train" for name in table["task"]]
    table["y"] = [1e6 if out else y for y, out in zip(table["y"], outside, strict=True)]
    table["x1"] = [-5.0 if out else x for x, out in zip(table["x1"], outside, strict=True)]
    changed = tmp_path / "changed.parquet"
    pq.write_table(pa.table(table), changed)
    a, b = (CurveTasks.from_parquet(each, num_support=3) for each in (path, changed))
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.y, b.y)
    assert CurveTasks.from_parquet(changed, "test", num_support=3).y.min() > 20


def test_training_points_of_each_family_have_mean_0_and_variance_1(path: Path):
    source = CurveTasks.from_parquet(path, num_support=3)
    mode = source.mode.repeat_interleave(source.count)
    for family in range(3):
        y = source.y[mode == family].double()
        torch.testing.assert_close(y.mean(), torch.zeros(()).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(y.var(correction=0), torch.ones(()).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_inputs", [1, 3])
def test_any_number_of_inputs_and_a_single_family(tmp_path: Path, num_inputs: int):
    path = write(tmp_path / "one.parquet", rows_of("a", 30, 9, num_inputs))
    tasks = CurveTasks.from_parquet(path, "test", num_support=5).sample(3, torch.arange(4))
    assert tasks.support_x.shape == (4, 5, num_inputs)
    assert tasks.mode.eq(0).all()
    assert tasks.query_mask.sum(1).eq(4).all()


def test_whole_numbers_are_values_and_names(tmp_path: Path):
    task, point = np.divmod(np.arange(20 * 6), 6)
    path = write(tmp_path / "whole.parquet", {"family": task % 2, "task": task, "x1": point, "y": task - point})
    source = CurveTasks.from_parquet(path, num_support=2)
    assert source.mode_names == ("0", "1")
    assert set(source.task_names) == {str(name) for name in range(20) if split_of(str(name)) == "train"}
    assert source.sample(0, torch.arange(8)).support_x.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, r"^split='dev' must be one of train, validation, test$"),
        ({"num_support": 0}, r"^num_support=0 must be at least 1$"),
        ({"num_query": -2}, r"^num_query=-2 must be at least 1$"),
        ({"num_support": 40}, r"^num_support=40 must be below 40, the points of the longest train task of .*parquet: "),
    ],
)
def test_bad_arguments_are_refused(path: Path, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        CurveTasks.from_parquet(path, **arguments)


def test_an_empty_split_is_refused(tmp_path: Path):
    columns = rows_of("a", 1, 20) | {"task": np.full(20, "curve 71")}
    path = write(tmp_path / "one.parquet", columns)
    with pytest.raises(
        ValueError, match=r"one.parquet has no test tasks \(a task's name decides its split\); add tasks$"
    ):
        CurveTasks.from_parquet(path, "test")


def test_a_family_without_tasks_in_the_split_keeps_its_mode(tmp_path: Path):
    few = rows_of("a", 1, 20) | {"task": np.full(20, "curve 71")}
    path = write(tmp_path / "two.parquet", few, rows_of("b", 20, 20))
    source = CurveTasks.from_parquet(path, "test")
    assert source.mode_names == ("a", "b")
    assert source.sample(0, torch.arange(5)).mode.eq(1).all()
