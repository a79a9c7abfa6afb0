"""What `mcb tune` refuses before anything starts: the message has the numbers, and nothing is left behind."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from tiny_runs import TINY

from jobs.arguments import TuneOptions
from jobs.cli import main
from jobs.search import checks
from jobs.search.search import find_search, save
from jobs.settings.recipes import recipe


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    assert main(["tune", "two-modes", *TINY, *words]) in (1, 2)
    return capsys.readouterr().err


CASES = [
    (["--space=mods"], "unknown space 'mods'"),
    (["--cluster.num-workers=2", "--cluster.threads-per-worker=600"], "a trial of 2 workers asks for 1200 CPUs, but"),
    (["--num-reports=5"], "--num-reports 5 must lie in 1..train.num_steps=4"),
    (["--num-trials=0"], "--num-trials 0: input should be greater than or equal to 1"),
    (["--searcher=best"], "--searcher best: input should be 'tpe', 'random' or 'grid'"),
    (["--cluster.strategy=collective"], "cluster.strategy=collective cannot be searched"),
    (["--train.checkpoint-dir=elsewhere"], "train.checkpoint_dir cannot be set"),
    (["--resume"], "there is no search of recipe 'two-modes' to resume"),
    (["--name=a/b"], "--name 'a/b' must be a plain name"),
    (["--tasks.path=x"], "belongs to tasks.kind=curves"),
]


@pytest.mark.parametrize(("words", "message"), CASES, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_search_that_cannot_be_is_refused_at_once(workplace: Path, capsys, words: list[str], message: str):
    assert message in refused(capsys, "--num-reports=2", *words)
    assert not (workplace / "runs" / "tune").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer.learning_rat": 1}, "unknown setting optimizer.learning_rat; did you mean optimizer.learning_rate"),
        ({"modes.kind": "embedding", "encoder.kind": "none"}, "these modes (embedding) read the task encoder"),
        ({"cluster.num_workers": [0, 1]}, "the space asks about cluster.num_workers"),
        ({"tasks.num_support": {"low": 2, "high": 9}}, "set it with --tasks.num-support"),
        ({"evaluation.num_tasks": 70}, "the space asks about evaluation.num_tasks, which must be the same"),
        ({"train.num_steps": [4, 8]}, "leave it out of the space, and set it with --train.num-steps"),
        ({"train.checkpoint_every": [1, 2]}, "the space asks about train.checkpoint_every"),
        ({"seed": [0, 1]}, "the space asks about seed, which must be the same for all trials"),
        (
            {
                "modes.kind": ["codebook", "clustered"],
                "modes.strategy": "k-means",
                "modes.num_modes": {"low": 2, "high": 40},
                "modes.num_reservoir": {"low": 39, "high": 1000},
            },
            "modes.num_reservoir=39 must be at least modes.num_modes=40",
        ),
    ],
)
def test_a_space_whose_points_do_not_fit_is_refused(workplace: Path, capsys, settings: dict, message: str):
    (workplace / "space.yaml").write_text(yaml.safe_dump({"settings": settings}))
    assert message in refused(capsys, "--num-reports=2", "--space=space.yaml")
    assert not (workplace / "runs" / "tune").exists()


@pytest.mark.parametrize("rate", [{}, {"optimizer.learning_rate": 0.01}])
def test_pbt_is_refused_unless_the_space_asks_for_the_learning_rate_that_it_changes(
    workplace: Path, capsys, rate: dict
):
    (workplace / "space.yaml").write_text(yaml.safe_dump({"settings": {"modes.num_modes": [2, 3], **rate}}))
    message = refused(capsys, "--num-reports=2", "--space=space.yaml", "--scheduler=pbt")
    assert "--scheduler pbt changes optimizer.learning_rate, which the space does not ask about" in message
    assert not (workplace / "runs" / "tune").exists()


def test_a_cluster_elsewhere_that_cannot_hold_a_trial_is_found_out_before_anything_is_written(
    workplace: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    monkeypatch.setattr(checks, "ray_cluster", lambda *where: nullcontext())
    monkeypatch.setattr(checks.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}])
    message = refused(capsys, "--num-reports=2", "--cluster.num-workers=2")
    assert "a trial of 2 workers asks for 2 CPUs, but the Ray cluster has 1 CPU" in message
    assert not (workplace / "runs" / "tune").exists()


def begun() -> None:
    options = TuneOptions("two-modes", name="known", num_reports=2, num_trials=5)
    save(find_search(options, recipe("two-modes"), {}))


def test_a_name_that_is_taken_is_refused_with_what_it_stands_for(workplace: Path, capsys):
    begun()
    assert "'known' exists: go on with --resume" in refused(capsys, "--name=known", "--num-reports=2")
    message = refused(capsys, "--name=known", "--num-reports=2", "--space=codebook")
    assert "'known' exists with another space, modes and not codebook: choose another --name" in message


def test_a_search_is_resumed_as_it_was_set(workplace: Path):
    begun()
    base = recipe("two-modes")
    found = find_search(TuneOptions(name="known", resume=True, num_trials=9), None, {})
    assert (found.search.num_trials, found.search.settings.recipe, found.resume) == (9, "two-modes", True)
    num_steps = found.search.settings.train.num_steps
    assert num_steps == base.train.num_steps // 10
    assert found.search.settings.train.checkpoint_every == num_steps // 2
    newest = find_search(TuneOptions("two-modes", resume=True), base, {})
    assert newest.folder == found.folder
    with pytest.raises(Exception, match=r"space is modes there, not codebook"):
        find_search(TuneOptions(name="known", resume=True, space="codebook"), None, {})
    with pytest.raises(Exception, match=rf"settings.train.meta_batch is {base.train.meta_batch} there, not 7"):
        find_search(TuneOptions(name="known", resume=True), None, {"train.meta_batch": ["7"]})
    with pytest.raises(
        Exception, match=rf"every {num_steps // 2} of {num_steps} meta-steps, which --num-reports 3 would change"
    ):
        find_search(TuneOptions(name="known", resume=True, num_reports=3), None, {})
    assert find_search(TuneOptions(name="known", resume=True, num_reports=2), None, {}).search == newest.search
    with pytest.raises(Exception, match=r"is of recipe 'two-modes', not 'five-modes'"):
        find_search(TuneOptions(name="known", resume=True), recipe("five-modes"), {})
