"""Every test of the commands works in an empty folder of its own, with a tracking store that is already migrated."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_runs import TINY

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


@pytest.fixture
def train(workplace: Path) -> Callable[..., dict]:
    """`mcb train` of a tiny two-mode run in this process; returns what `--json` wrote."""

    def run(*words: str, recipe: str = "two-modes") -> dict:
        path = workplace / "figures.json"
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
