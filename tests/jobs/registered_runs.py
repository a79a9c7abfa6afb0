"""Two tiny tracked runs and the registry beside them, for tests of models."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from mlflow.tracking import MlflowClient
from tiny_runs import TINY

from jobs.cli import main


class Run(NamedTuple):
    """A run's folder, its id and its test NLL."""

    folder: Path
    run_id: str
    nll: float


def train(place: Path, name: str, *words: str) -> Run:
    """`mcb train` of a tiny two-mode run in the folder `name` of `place`, the folder of this process."""
    assert main(["train", "two-modes", *TINY, *words, f"--out={name}"]) == 0
    figures = json.loads((place / name / "result.json").read_text())
    return Run(place / name, figures["run_id"], figures["evaluation"]["nll"])


def client(place: Path) -> MlflowClient:
    """The store of a place."""
    return MlflowClient(store(place))


def store(place: Path) -> str:
    """Its URI."""
    return f"sqlite:///{place / 'runs' / 'mlflow.db'}"


def rows(num_support: Sequence[int], num_query: int = 2) -> pd.DataFrame:
    """Random tasks of those many support points, their rows shuffled."""
    generator = np.random.default_rng(3)
    points = [
        {"task": f"task {task}", "set": "support" if point < num else "query", "x": generator.uniform(-4, 4)}
        | {"y": generator.normal() if point < num else None}
        for task, num in enumerate(num_support)
        for point in range(num + num_query)
    ]
    table = pd.DataFrame(points).astype({"y": float})
    return table.iloc[generator.permutation(len(table))]
