"""Ctrl-C in a terminal: the whole process group gets SIGINT, the run saves a checkpoint and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from fake_learner import training_plan

from cluster.checkpoint import load_newest, paths
from cluster.training import params_sha256, run_meta_training

HERE = Path(__file__).parent


def start(folder: Path, home: Path, num_workers: int) -> subprocess.Popen[str]:
    """The endless run as a user without any Ray settings starts it."""
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
    return subprocess.Popen(
        [sys.executable, str(HERE / "endless_run.py"), str(folder), str(num_workers)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


@pytest.mark.ray
def test_ctrl_c_saves_a_checkpoint_and_leaves_no_process_and_no_token(tmp_path: Path):
    folder, home = tmp_path / "run", tmp_path / "home"
    with start(folder, home, num_workers=1) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 3:
                break
        token = folder / ".ray-token"
        assert token.stat().st_mode & 0o777 == 0o600
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert any("raylet" in member.name() for member in family)
        os.killpg(process.pid, signal.SIGINT)
        last_line = process.stdout.read().splitlines()[-1]
        assert process.wait(timeout=60) == 0
    said = json.loads(last_line)
    saved = load_newest(folder)
    assert said["interrupted"] and said["num_steps"] == saved.version >= 3
    assert said["sha256"] == params_sha256(saved.parameters)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert sorted(str(path) for path in folder.iterdir()) == sorted(paths(folder))
    assert not (home / ".ray").exists()


@pytest.mark.slow
def test_a_killed_driver_leaves_no_process_and_no_lock_and_its_run_can_be_resumed(tmp_path: Path):
    folder = tmp_path / "run"
    with start(folder, tmp_path / "home", num_workers=1) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 3:
                break
        family = [
            member
            for member in psutil.Process(process.pid).children(recursive=True)
            if "Agent" not in member.name()  # Ray's agents go too, a minute later
        ]
        process.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    plan = training_plan(folder, num_steps=5, resume=True)
    resumed = run_meta_training(plan, lambda record: None, lambda: False)
    assert resumed.num_steps == 5
    assert sorted(str(path) for path in folder.iterdir() if path.name != ".ray-token") == sorted(paths(folder))
