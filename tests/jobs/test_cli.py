import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import TINY

from jobs.cli import main
from jobs.settings.recipes import RECIPES

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("trian", 2, "unknown command 'trian'; did you mean train?"),
        ("train", 2, "name a recipe: five-modes, two-modes"),
        ("train five-mods", 2, "unknown recipe 'five-mods'; did you mean five-modes?"),
        ("train two-modes --trian.num-steps 3", 2, "unknown option --trian.num-steps; did you mean --train.num-steps?"),
        ("train two-modes --trackin-uri x", 2, "unknown option --trackin-uri; did you mean --tracking-uri?"),
        ("train two-modes three-modes", 2, "see mcb train --help"),
        ("train two-modes --out", 2, "see mcb train --help"),
        ("train two-modes --train.num-steps -1", 2, "train.num_steps=-1 must be a whole number from 1"),
        ("train two-modes --config absent.yaml", 2, "absent.yaml cannot be read"),
        ("train two-modes --resume", 2, "there is no run of recipe 'two-modes' to resume below"),
        ("train two-modes --resume --out .", 2, ". holds no run to resume: leave out --resume"),
        ("train two-modes --data x.parquet", 2, "--data is for measured curves (recipe curves)"),
        ("train two-modes --json .", 2, ". cannot be written"),
        ("train two-modes --json notes.txt/x.json", 2, "notes.txt/x.json cannot be written"),
        ("train curves", 2, "give --data FILE.parquet"),
        ("train curves --data absent.parquet", 1, "absent.parquet"),
        ("train two-modes --network.adapted nothing", 1, "selects no parameter"),
        ("train two-modes --tracking-uri http://127.0.0.1:9", 1, "does not answer"),
        ("train two-modes --tracking-uri postgresql://u:secret@127.0.0.1:9/x", 1, "postgresql://u:***@127.0.0.1:9/x"),
        ("train two-modes --tracking-uri foo://bar", 1, "the tracking store foo://bar cannot be opened"),
        ("evaluate", 2, "see mcb evaluate --help"),
        ("evaluate absent", 1, "there is no run absent"),
        ("evaluate .", 1, ". holds no checkpoint"),
        ("evaluate notes.txt", 1, "notes.txt is not a checkpoint"),
        ("evaluate notes.txt --train.num-steps 3", 2, "only settings under evaluation can be overridden"),
        ("modes", 2, "see mcb modes --help"),
        ("modes absent", 1, "there is no run absent"),
        ("modes absent --num-tasks 1", 2, "--num-tasks 1 must be at least 2"),
        ("train three-modes --modes.kind clustered --modes.strategy k-means", 2, "needs the number of clusters: give"),
        (
            "train three-modes-clustered --modes.num-reservoir 9",
            2,
            "num_reservoir=9 must be at least modes.num_modes",
        ),
        ("limits curves", 2, "no Bayes limit for 'curves'; there are two-modes"),
        ("limits two-modes --num-tasks 1", 2, "--num-tasks 1 must be at least 2"),
        ("recipes five-modes", 2, "mcb recipes takes no 'five-modes'"),
        ("ui --tracking-uri sqlite:///absent.db", 1, "there is no tracking store at"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing_behind(words, code, message, workplace, capsys):
    (workplace / "notes.txt").write_text("no checkpoint")
    before = sorted(workplace.rglob("*"))
    assert main(words.split()) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert [path for path in sorted(workplace.rglob("*")) if path.suffix != ".lock"] == before


def test_a_traceback_is_shown_on_request():
    with pytest.raises(Exception, match="unknown recipe"):
        main(["train", "five-mods", "--debug"])


def test_help_lists_the_commands_and_imports_nothing_slow():
    heavy = "{'torch', 'ray', 'mlflow', 'pydantic', 'tyro', 'rich', 'numpy'}"
    program = f"import sys; from jobs.cli import main; main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    for command in ("train", "evaluate", "modes", "register", "recipes", "limits", "ui"):
        assert f"\n  {command} " in done.stdout


def test_help_of_a_recipe_shows_its_settings_with_ranges(capsys):
    assert main(["train", "five-modes-svgd", "--help"]) == 0
    shown = capsys.readouterr().out
    for text in ("--resume", "--tracking-optional", "--inference.num-particles", "--train.num-steps", "1..1000000000"):
        assert text in shown
    assert "--modes.num-modes" not in shown
    assert main(["train", "five-modes-svgd", "--modes.kind", "codebook", "--help"]) == 0
    assert "--modes.num-modes" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["evaluate", "modes", "register", "limits", "ui"])
def test_help_of_every_command(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: mcb {command}" in capsys.readouterr().out


def test_recipes_are_listed(capsys):
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in RECIPES)


def test_ctrl_c_says_where_the_checkpoint_lies_and_how_to_go_on(workplace):
    words = ["train", "two-modes", *TINY, "--train.num-steps=1000000", "--out=run"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    pipe = subprocess.PIPE
    run = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *words], stdout=pipe, stderr=pipe, text=True, env=environment
    )
    steps = workplace / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (steps.exists() and steps.stat().st_size) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 130
    assert f"mcb train two-modes --resume --out {workplace / 'run'}" in stderr
    named = stderr.split("saved in ")[1].split(";")[0]
    assert Path(named).exists()
    assert "Traceback" not in stderr
