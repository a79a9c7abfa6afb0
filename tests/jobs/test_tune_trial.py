"""A trial, without Ray: the run in its own folder, judged at every checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import TINY

from cluster.checkpoint import load, paths
from jobs.building.objects import build_source
from jobs.evaluation.scores import MAPPING_SEED, TEST_SEED
from jobs.runs.folder import RunFolder
from jobs.search.space_points import Point
from jobs.search.trial import Curve, TrialPlan, run_trial
from jobs.search.trials import Report
from jobs.search.validation import VALIDATION_SEED, Validation
from jobs.settings.overrides import override, split
from jobs.settings.recipes import recipe
from jobs.settings.tree import Settings
from mcb.tasks.curves import CurveTasks

POINT: Point = {"modes.num_modes": 5}


def tiny(*words: str) -> Settings:
    given, _ = split([*TINY, "--train.checkpoint-every=1", *words])
    return override(recipe("two-modes"), given)


class Told:
    """What a trial told; ends it after `most` reports, as Ray Tune does."""

    def __init__(self, most: int | None = None) -> None:
        self.reports: list[Report] = []
        self.curve: Curve = []
        self.most = most

    def __call__(self, report: Report, curve: Curve, checkpoint: str) -> None:
        assert load(checkpoint).version == report.num_steps
        self.reports.append(report)
        self.curve += curve
        if len(self.reports) == self.most:
            raise SystemExit(0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Told, Path]:
    """A trial that nobody stopped."""
    told, folder = Told(), tmp_path_factory.mktemp("whole")
    run_trial(TrialPlan(tiny(), 30), POINT, RunFolder(folder), None, told)
    return told, folder


def values(told: Told) -> list[tuple[int, float]]:
    return [(report.num_steps, report.objective) for report in told.reports]


def test_every_checkpoint_is_judged_once_and_the_newest_kept(whole: tuple[Told, Path]):
    told, folder = whole
    assert [report.num_steps for report in told.reports] == [1, 2, 3, 4]
    assert [step for step, _ in told.curve] == [1, 2, 3, 4]
    (last,) = paths(folder / "checkpoints")
    assert load(last).version == 4
    settings = TrialPlan(tiny(), 30).settings_of(POINT)
    assert told.reports[-1].objective == Validation(settings, 30)(load(last)).nll
    assert 1 <= told.reports[-1].num_modes <= 5
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_trial_that_was_ended_goes_on_with_the_same_values(whole: tuple[Told, Path], tmp_path: Path):
    plan, folder = TrialPlan(tiny(), 30), RunFolder(tmp_path)
    first, second = Told(most=2), Told()
    with pytest.raises(SystemExit):
        run_trial(plan, POINT, folder, None, first)
    run_trial(plan, POINT, folder, None, second)
    assert dict(values(first)) | dict(values(second)) == dict(values(whole[0]))
    assert second.reports[0].num_steps >= 2
    assert load(paths(folder.checkpoints)[0]).version == 4


def test_a_trial_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    whole: tuple[Told, Path], tmp_path: Path
):
    plan, folder, first, second = TrialPlan(tiny(), 30), RunFolder(tmp_path), Told(most=2), Told()
    with pytest.raises(SystemExit):
        run_trial(plan, POINT, folder, None, first)
    newest = Path(paths(folder.checkpoints)[0])
    newest.with_name("checkpoint-00000004.mcb").write_bytes(newest.read_bytes()[:-9])
    run_trial(plan, POINT, folder, None, second)
    assert dict(values(first)) | dict(values(second)) == dict(values(whole[0]))
    assert [load(path).version for path in paths(folder.checkpoints)] == [4]


def test_another_trials_checkpoint_takes_the_place_of_the_own(whole: tuple[Told, Path], tmp_path: Path):
    plan, folder = TrialPlan(tiny("--train.num-steps=6"), 30), RunFolder(tmp_path)
    with pytest.raises(SystemExit):
        run_trial(plan, POINT, folder, None, Told(most=5))
    foreign = tmp_path / "given" / "checkpoint-00000004.mcb"
    foreign.parent.mkdir()
    shutil.copy(paths(whole[1] / "checkpoints")[0], foreign)
    told = Told()
    run_trial(plan, {**POINT, "optimizer.learning_rate": 1e-3}, folder, foreign, told)
    assert values(told)[0] == values(whole[0])[-1]
    assert [report.num_steps for report in told.reports] == [4, 5, 6]


def test_validation_tasks_are_no_training_nor_test_tasks(curves_file: Path):
    settings = tiny()
    source = build_source(settings)
    own = source.sample(VALIDATION_SEED, torch.arange(500)).support_x
    for seed in (TEST_SEED, MAPPING_SEED, settings.seed):
        assert not set(own[:, 0, 0].tolist()) & set(source.sample(seed, torch.arange(500)).support_x[:, 0, 0].tolist())
    curves = override(recipe("curves"), {"tasks.path": [str(curves_file)], "tasks.num_support": ["5"]})
    sources = [build_source(curves, split) for split in ("train", "validation", "test")]
    names = [set(source.task_names) for source in sources if isinstance(source, CurveTasks)]
    assert not (names[1] & names[0]) and not (names[1] & names[2])


def test_the_record_of_a_trial_names_its_settings(whole: tuple[Told, Path]):
    settings = (whole[1] / "settings.yaml").read_text()
    assert "num_modes: 5" in settings
    assert json.loads((whole[1] / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
