import shlex
from pathlib import Path

import pytest

from jobs import job_entry
from jobs.cli import main
from jobs.errors import UsageError
from jobs.settings.file import to_yaml
from jobs.settings.overrides import override, split
from jobs.settings.recipes import recipe
from jobs.submission.arguments import SubmitEvaluateOptions, SubmitTrainOptions, SubmitTuneOptions
from jobs.submission.plan import (
    JobRequest,
    evaluate_request,
    resources,
    runtime_environment,
    train_request,
    tune_request,
)

_STORE = ("--tracking-uri", "$MLFLOW_TRACKING_URI")


def _train(here: Path, *settings: str, **options) -> JobRequest:
    overrides, _ = split(settings)
    given = {"recipe": "two-modes", "storage": "/srv/runs", "name": "a", **options}
    return train_request(SubmitTrainOptions(**given), overrides, "two-modes", {}, here)


def test_a_run_in_a_shared_folder_begins_or_goes_on_there(tmp_path):
    request = _train(tmp_path, "--train.num-steps", "7", "--network.hidden", "8", "4", tracking_optional=True)
    settings = ("--train.num-steps=7", "--network.hidden=8,4")
    place = ("--out", "/srv/runs/a", "--auto-resume")
    assert request.command == ("train", "two-modes", "--tracking-optional", *settings, *place, *_STORE)
    assert request.place == "/srv/runs/a"
    assert request.metadata == {"job_name": "a", "mcb_command": "train", "mcb_run": "/srv/runs/a"}


def test_a_run_at_a_url_has_its_checkpoints_there(tmp_path):
    request = _train(tmp_path, storage="s3://bucket/runs/")
    place = ("--out", "runs/a", "--auto-resume", "--train.checkpoint-dir=s3://bucket/runs/a")
    assert request.command == ("train", "two-modes", *place, *_STORE)
    with pytest.raises(UsageError, match="two places for checkpoints"):
        _train(tmp_path, "--train.checkpoint-dir=s3://x/y", storage="s3://bucket/runs")


def test_a_search_goes_on_in_its_folder_and_takes_no_url(tmp_path):
    options = SubmitTuneOptions(recipe="two-modes", out=Path("/srv/a"), num_trials=4, space="codebook")
    request = tune_request(options, {"seed": ["3"]}, "two-modes", {}, tmp_path)
    words = ("tune", "two-modes", "--space", "codebook", "--num-trials", "4", "--seed=3")
    assert request.command == (*words, "--out", "/srv/a", "--auto-resume", *_STORE)
    with pytest.raises(UsageError, match="a folder that all nodes share, not at s3://b/a"):
        tune_request(SubmitTuneOptions(storage="s3://b", name="a"), {}, "two-modes", {}, tmp_path)


def test_an_evaluation_names_what_the_cluster_has(tmp_path):
    request = evaluate_request(SubmitEvaluateOptions("/srv/runs/a"), {"evaluation.num_tasks": ["9"]}, tmp_path)
    assert request.command == ("evaluate", "/srv/runs/a", "--evaluation.num-tasks=9", *_STORE)
    assert request.place is None and request.name.startswith("evaluate-")


def test_storage_comes_from_the_environment_and_a_name_from_recipe_and_time(tmp_path):
    options = SubmitTrainOptions(recipe="two-modes")
    request = train_request(options, {}, "two-modes", {"MCB_STORAGE": "/nfs"}, tmp_path)
    assert request.place == f"/nfs/{request.name}" and request.name.startswith("two-modes-2")
    assert request.new_id() != request.new_id()


def test_files_of_the_working_directory_travel_under_their_relative_names(tmp_path):
    for name in ("data/curves.parquet", "conf/settings.yaml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    request = _train(tmp_path, data=tmp_path / "data/curves.parquet", config=Path("conf/settings.yaml"))
    assert shlex.join(request.command).count("--config conf/settings.yaml --data data/curves.parquet") == 1
    assert sorted(map(str, request.files)) == ["conf/settings.yaml", "data/curves.parquet"]
    assert _train(tmp_path, data=Path("/nfs/curves.parquet")).files == ()
    with pytest.raises(UsageError, match=r"--data gone\.parquet is no file of the working directory"):
        _train(tmp_path, data=Path("gone.parquet"))
    with pytest.raises(UsageError, match="lies outside of the working directory"):
        _train(tmp_path / "data", config=tmp_path / "conf/settings.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"storage": None}, "say where the cluster keeps runs: --storage"),
        ({"storage": "runs"}, "--storage runs must be a URL, or a whole path on the cluster"),
        ({"out": Path("x")}, "--out x must be a whole path on the cluster"),
        ({"name": "a/b"}, "--name 'a/b' must be a plain name"),
        ({"credentials": ("AWS_KEY", "wJalr/K7")}, "--credentials takes names of environment variables alone"),
        ({"tracking_uri": "http://u:s3cret@h"}, r"--tracking-uri http://u:\*\*\*@h holds a password"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_a_secret_in_the_message(tmp_path, options, message):
    with pytest.raises(UsageError, match=message) as refusal:
        _train(tmp_path, **options)
    assert "s3cret" not in str(refusal.value) and "wJalr" not in str(refusal.value)


def test_the_job_is_one_process_whose_command_line_has_names_and_no_values(tmp_path):
    uri = "postgresql://mcb:$DB_PASSWORD@db/mlflow"
    request = _train(tmp_path, credentials=("AWS_SECRET_ACCESS_KEY", "DB_PASSWORD"), tracking_uri=uri)
    words = shlex.split(request.entrypoint)
    assert words[:6] == ["exec", "python", "-m", "jobs.job_entry", "--credentials", "AWS_SECRET_ACCESS_KEY,DB_PASSWORD"]
    assert words[-2:] == ["--tracking-uri", uri]
    shown = runtime_environment(Path("/x/a.zip"), "a-1")
    assert shown == {"working_dir": "/x/a.zip", "env_vars": {"MCB_JOB": "a-1", "RAY_JOB_STOP_WAIT_TIME_S": "60"}}


def test_what_the_driver_reserves():
    assert resources(SubmitTrainOptions()) == {}
    asked = SubmitTrainOptions(entrypoint_num_cpus=2, entrypoint_memory_gb=1.5)
    assert resources(asked) == {"entrypoint_num_cpus": 2, "entrypoint_memory": 1_500_000_000}
    with pytest.raises(UsageError, match="--entrypoint-num-gpus -1 must be at least 0"):
        resources(SubmitTrainOptions(entrypoint_num_gpus=-1))


def test_a_job_without_a_credential_that_it_needs_ends_at_once(capsys):
    words = ["--credentials", "A_KEY,B_KEY", "recipes"]
    assert job_entry.main(words, {"A_KEY": "s3cret"}) == 1
    said = capsys.readouterr().err
    assert "the environment of the cluster has no B_KEY" in said and "s3cret" not in said
    assert job_entry.main(words, {"A_KEY": "x", "B_KEY": "y"}) == 0
    assert "five-modes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["submit", "trian"], "unknown action 'trian' of mcb submit; did you mean train?"),
        (["submit", "train", "two-modes", "--resume"], "a job continues its run by itself"),
        (["submit", "train", "two-modes", "--json", "x"], "--json is a file of this machine"),
        (["submit", "train", "--storage", "/srv"], "name a recipe"),
        (["submit", "train", "two-modes", "--train.num-stepz=3"], "did you mean --train.num-steps?"),
        (["submit", "train", "two-modes", "--seed=-1", "--storage=/srv"], "seed=-1 must be"),
        (["submit", "train", "two-modes", "--storage=/srv"], "name the cluster: --address"),
        (["submit", "train", "two-modes", "--storage=/srv", "--address=ray://head:10001"], "that of the dashboard"),
        (["jobs", "log", "a"], "unknown action 'log' of mcb jobs; did you mean logs?"),
        (["jobs", "list"], "name the cluster: --address"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_asked_of_a_cluster(words, message, monkeypatch, capsys):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.delenv("MCB_STORAGE", raising=False)
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_a_saved_file_that_names_a_runs_checkpoints_is_no_new_job_in_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    saved = override(recipe("two-modes"), {"train.checkpoint_dir": ["/srv/old"]})
    Path("saved.yaml").write_text(to_yaml(saved))
    words = ["submit", "train", "--config=saved.yaml"]
    assert main([*words, "--storage=/srv/runs"]) == 2
    assert "--config keeps checkpoints at /srv/old, where the run that it was saved by has" in capsys.readouterr().err
    for others in (["--storage=s3://bucket"], ["--storage=/srv/runs", "--train.checkpoint-dir=/srv/new"]):
        assert main([*words, *others]) == 2
        assert "name the cluster: --address" in capsys.readouterr().err


def test_a_setting_without_a_value_travels_without_one(tmp_path):
    overrides = {"network.hidden": [], "tracking.log_model": [""]}
    request = train_request(SubmitTrainOptions("two-modes", out=Path("/srv/a")), overrides, "two-modes", {}, tmp_path)
    assert request.command[2:4] == ("--network.hidden", "--tracking.log-model")


@pytest.mark.parametrize("words", [["submit"], ["submit", "--help"], ["submit", "tune", "--help"], ["jobs", "-h"]])
def test_help_is_there_at_every_level(words, capsys):
    assert main(words) == 0
    assert "usage: mcb" in capsys.readouterr().out
