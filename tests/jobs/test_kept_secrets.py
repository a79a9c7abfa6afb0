"""A tracking URI that holds a password is used and never written down; one that names a variable stays a name."""

import json
from pathlib import Path

import pytest
import yaml

from cluster.secrets import without_password
from jobs.arguments import TrainOptions, TuneOptions
from jobs.errors import UsageError
from jobs.runs.folder import default_tracking_uri, require_whole
from jobs.search.search import find_search, save
from jobs.settings.recipes import recipe
from jobs.training.job import find_job
from jobs.training.train import _begin, ui_command

_SECRET = "s3cret"
_URI = f"postgresql://mcb:{_SECRET}@db/mlflow"


def _files(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_a_runs_folder_and_its_last_words_hold_no_password(workplace):
    job = find_job(TrainOptions(out=Path("run"), tracking_uri=_URI), recipe("two-modes"), {})
    assert job.tracking_uri == _URI
    _begin(job, "1")
    assert json.loads(job.folder.identity.read_text())["tracking_uri"] == "postgresql://mcb:***@db/mlflow"
    assert _SECRET not in _files(workplace / "run") + ui_command(job.tracking_uri)


def test_a_run_whose_password_was_not_kept_asks_for_it_again(workplace):
    job = find_job(TrainOptions(out=Path("run"), tracking_uri=_URI), recipe("two-modes"), {})
    _begin(job, "1")
    checkpoint = Path(job.checkpoints) / "checkpoint-00000002.mcb"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    with pytest.raises(UsageError, match="and its password is not kept: give --tracking-uri again"):
        find_job(TrainOptions(out=Path("run"), resume=True), None, {})
    again = find_job(TrainOptions(out=Path("run"), resume=True, tracking_uri=_URI), None, {})
    assert again.resume and again.tracking_uri == _URI


def test_a_searchs_folder_and_tracked_parameters_hold_no_password_and_it_is_asked_for_again(workplace):
    found = find_search(TuneOptions(out=Path("search"), tracking_uri=_URI), recipe("two-modes"), {})
    assert found.search.tracking_uri == _URI
    save(found)
    assert _SECRET not in _files(workplace / "search") + str(found.search.shown)
    with pytest.raises(UsageError, match="its password is not kept"):
        find_search(TuneOptions(out=Path("search"), resume=True), None, {})
    again = find_search(TuneOptions(out=Path("search"), resume=True, tracking_uri=_URI), None, {})
    assert again.search.tracking_uri == _URI


def test_a_search_that_is_submitted_again_begins_and_then_goes_on(workplace):
    options = TuneOptions(out=Path("search"), auto_resume=True, num_trials=4)
    first = find_search(options, recipe("two-modes"), {"train.num_steps": ["40"]})
    assert not first.resume
    save(first)
    again = find_search(options, recipe("two-modes"), {"train.num_steps": ["40"]})
    assert again.resume and again.search == first.search
    with pytest.raises(UsageError, match="--auto-resume needs the place of the search"):
        find_search(TuneOptions(auto_resume=True), recipe("two-modes"), {})


def test_the_store_of_mlflows_own_variable_is_the_default_and_is_kept_by_name(workplace, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_tracking_uri() == f"sqlite:///{workplace}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _URI)
    job = find_job(TrainOptions(out=Path("run")), recipe("two-modes"), {})
    assert job.tracking_uri == "$MLFLOW_TRACKING_URI" and ui_command(job.tracking_uri) == "mcb ui"
    found = find_search(TuneOptions(out=Path("search")), recipe("two-modes"), {})
    save(found)
    assert yaml.safe_load(found.file.read_text())["tracking_uri"] == "$MLFLOW_TRACKING_URI"


def test_a_search_hands_no_key_of_the_drivers_to_the_command_lines_of_its_trials(monkeypatch):
    from ray import tune
    from ray.tune.execution.class_cache import _ActorClassCache

    import jobs.search.ray_tune  # noqa: F401 - what it does to Ray Tune when imported is what is tested

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", _SECRET)
    actor = _ActorClassCache().get(tune.Trainable)
    assert _SECRET not in str(actor._default_options)


def test_a_password_in_the_query_of_a_store_is_asked_for_again_too():
    kept = without_password(f"postgresql://db/mlflow?user=mcb&password={_SECRET}")
    with pytest.raises(UsageError, match="its password is not kept: give --tracking-uri again"):
        require_whole(kept)
