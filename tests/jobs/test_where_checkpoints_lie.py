"""`--train.checkpoint-dir` and `--auto-resume`: a run is found again by its checkpoints, wherever they are."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_runs import TINY

from cluster.lock import locked
from jobs.cli import main
from jobs.runs.folder import find_run
from jobs.settings.file import to_yaml
from jobs.settings.recipes import recipe


def test_a_job_submitted_again_begins_and_then_goes_on_to_the_same_parameters(constant_run, train, workplace):
    schedule, whole = "--optimizer.schedule=constant", constant_run.figures
    train("--out=job", "--auto-resume", schedule, "--train.num-steps=2")
    again = train("--out=job", "--auto-resume", schedule)
    assert again["params_sha256"] == whole["params_sha256"]
    steps = [json.loads(line)["step"] for line in (workplace / "job" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_a_run_whose_folder_is_lost_goes_on_from_its_checkpoints_elsewhere(constant_run, train, workplace, capsys):
    schedule, kept = "--optimizer.schedule=constant", f"--train.checkpoint-dir=file://{workplace}/kept"
    whole = constant_run.figures
    first = train("--out=first", schedule, kept, "--train.num-steps=2")
    assert not (workplace / "first" / "checkpoints").exists()
    assert main(["evaluate", "first"]) == 0
    again = train("--out=second", "--auto-resume", schedule, kept)
    assert again["params_sha256"] == whole["params_sha256"]
    assert again["run_id"] == first["run_id"] != whole["run_id"]
    assert again["checkpoint"] == f"{workplace}/kept/checkpoint-00000004.mcb"
    assert main(["train", "two-modes", "--resume", "--out=second", "--json=same.json"]) == 0
    assert json.loads((workplace / "same.json").read_text())["params_sha256"] == whole["params_sha256"]


@pytest.mark.parametrize("how", ["--auto-resume", "--resume"])
def test_a_saved_file_does_not_lead_a_new_run_to_the_checkpoints_of_the_one_that_saved_it(
    train, workplace, capsys, how
):
    kept = f"{workplace}/kept"
    old = train("--out=old", f"--train.checkpoint-dir={kept}", "--train.num-steps=2")
    config = ["train", *TINY, "--config=old/settings.yaml"]
    before = sorted(path.name for path in Path(kept).iterdir())
    assert main([*config, "--out=new", how]) == 2
    message = capsys.readouterr().err
    assert f"keeps checkpoints at {kept}, and some are there that are not those of --out new" in message
    assert "--train.checkpoint-dir none" in message and f"--train.checkpoint-dir {kept}" in message
    assert not (workplace / "new").exists() and sorted(path.name for path in Path(kept).iterdir()) == before
    for own, out, run_id in (("", "old", old["run_id"]), (f"--train.checkpoint-dir={kept}", "new", old["run_id"])):
        assert main([*config, f"--out={out}", how, *filter(None, [own]), "--json=again.json"]) == 0
        assert json.loads((workplace / "again.json").read_text())["run_id"] == run_id


def test_the_file_of_a_run_whose_checkpoints_lie_elsewhere_starts_another_beside_it(train, workplace):
    first = train("--out=old", f"--train.checkpoint-dir={workplace}/kept")
    command = ("--out=new", "--config=old/settings.yaml", "--auto-resume", "--train.checkpoint-dir=none")
    again = train(*command)
    assert again["run_id"] != first["run_id"] and again["params_sha256"] == first["params_sha256"]
    assert Path(again["checkpoint"]).parent == workplace / "new" / "checkpoints"
    assert train(*command)["run_id"] == again["run_id"]  # submitted again, it goes on


@pytest.mark.parametrize("name", ["run", "kept", "kept/checkpoint-00000004.mcb", "whole/checkpoints"])
def test_a_run_is_found_with_its_folder_wherever_its_checkpoints_lie(workplace, name):
    for run, checkpoint_dir in (("run", workplace / "kept"), ("whole", None)):
        folder = workplace / "runs" / "two-modes" / run
        folder.mkdir(parents=True)
        settings = recipe("two-modes")
        train = settings.train.model_copy(update={"checkpoint_dir": checkpoint_dir and str(checkpoint_dir)})
        (folder / "settings.yaml").write_text(to_yaml(settings.model_copy(update={"train": train})))
        checkpoints = checkpoint_dir or folder / "checkpoints"
        checkpoints.mkdir()
        (checkpoints / "checkpoint-00000004.mcb").touch()
    within = workplace if name.startswith("kept") else workplace / "runs" / "two-modes"
    found = find_run(str(within / name))
    assert found is not None and found.folder is not None
    assert found.folder.path == workplace / "runs" / "two-modes" / ("whole" if "whole" in name else "run")
    assert found.checkpoint.endswith("checkpoint-00000004.mcb")


def test_a_checkpoint_of_a_run_that_is_not_here_is_found_alone(workplace):
    (workplace / "checkpoint-00000004.mcb").touch()
    assert find_run("checkpoint-00000004.mcb") == ("checkpoint-00000004.mcb", None)
    assert find_run("nothing") is None


def test_a_second_run_on_the_same_checkpoints_is_refused_before_it_changes_anything(plain_run, workplace, capsys):
    shutil.copytree(plain_run.folder / "run", workplace / "run")
    before = {path: path.read_bytes() for path in (workplace / "run").rglob("*") if path.is_file()}
    with locked(workplace / "run" / "checkpoints"):
        assert main(["train", "two-modes", "--resume", "--out=run", "--train.num-steps=6"]) == 1
    assert "run/checkpoints is being written by another run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_auto_resume_without_a_place_and_an_unknown_protocol_are_refused(workplace, capsys):
    assert main(["train", "two-modes", *TINY, "--auto-resume"]) == 2
    assert "--auto-resume needs the place of the run" in capsys.readouterr().err
    assert main(["train", "two-modes", *TINY, "--out=x", "--train.checkpoint-dir=nothing://x"]) == 1
    assert "checkpoints cannot lie at nothing://x" in capsys.readouterr().err
    assert not (workplace / "x").exists()
