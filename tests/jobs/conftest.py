"""Every test of the commands works in an empty folder of its own, with a tracking store that is already migrated."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from tiny_runs import CLUSTERED, TINY

from cluster.tracking_store import open_store
from jobs.cli import main


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store: making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def workplace(tmp_path: Path, migrated_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(migrated_store, tmp_path / "runs" / "mlflow.db")
    return tmp_path


class FinishedRun(NamedTuple):
    """A tiny run that several tests look at and none changes: `folder/run`, its store in `folder/runs`."""

    folder: Path
    figures: dict


def finished(folder: Path, store: Path, *words: str, recipe: str = "two-modes") -> FinishedRun:
    """`mcb train` of a tiny run in a folder of its own."""
    (folder / "runs").mkdir()
    shutil.copy(store, folder / "runs" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", recipe, *TINY, *words, "--out=run", "--json=figures.json"]) == 0
    return FinishedRun(folder, json.loads((folder / "figures.json").read_text()))


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> FinishedRun:
    """A run with a seed of its own, and else as tiny runs are."""
    return finished(tmp_path_factory.mktemp("plain"), migrated_store, "--seed=5")


@pytest.fixture(scope="session")
def constant_run(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> FinishedRun:
    """A run at one learning rate, which a run that was given its meta-steps in two parts must equal."""
    return finished(tmp_path_factory.mktemp("constant"), migrated_store, "--optimizer.schedule=constant")


@pytest.fixture(scope="session")
def clustered_run(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> FinishedRun:
    """A run whose modes are refreshed after its second and its fourth meta-step."""
    return finished(tmp_path_factory.mktemp("clustered"), migrated_store, *CLUSTERED)


@pytest.fixture(scope="session")
def curves_run(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path, curves_file: Path) -> FinishedRun:
    """A run on measured curves, with refreshed modes; its baselines take longer than all the rest."""
    words = [f"--data={curves_file}", "--tasks.num-support=5", "--evaluation.num-rounds=1", *CLUSTERED]
    return finished(tmp_path_factory.mktemp("curves"), migrated_store, *words, recipe="curves")


@pytest.fixture
def train(workplace: Path) -> Callable[..., dict]:
    """`mcb train` of a tiny two-mode run in this process; returns what `--json` wrote.

    Its figures are made but saved empty: rendering them takes longer than all the rest.
    """

    def run(*words: str, recipe: str = "two-modes") -> dict:
        path = workplace / "figures.json"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Figure, "savefig", lambda figure, file: Path(file).touch())
            assert main(["train", recipe, *TINY, *words, "--json", str(path)]) == 0
        return json.loads(path.read_text())

    return run


@pytest.fixture(scope="session")
def curves_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two families of measured curves, one with a second input: lines and noisy parabolas."""
    generator = np.random.default_rng(0)
    rows: dict[str, list] = {name: [] for name in ("family", "task", "x1", "x2", "y")}
    for family in ("lines", "parabolas"):
        for number in range(20):
            x = generator.uniform(-2, 2, size=16)
            slope, offset = generator.normal(size=2)
            y = offset + slope * (x if family == "lines" else x**2) + 0.1 * generator.normal(size=16)
            rows["family"] += [family] * 16
            rows["task"] += [f"{family} {number}"] * 16
            rows["x1"] += x.tolist()
            rows["x2"] += [None] * 16 if family == "lines" else (x * 0.5).tolist()
            rows["y"] += y.tolist()
    path = tmp_path_factory.mktemp("data") / "curves.parquet"
    pq.write_table(pa.table(rows), path)
    return path
