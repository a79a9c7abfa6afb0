"""The folder of a run, and how a run is found again.

It holds `settings.yaml`, `checkpoints/`, `metrics.jsonl`, `run.json`, `result.json`, `test_tasks.parquet`,
`model_card.md` and `figures/`.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cluster.checkpoint import paths
from cluster.errors import UserError
from cluster.storage import absolute, is_url, split
from jobs.errors import UsageError
from jobs.settings.file import read_yaml

RUNS = Path("runs")


@dataclass(frozen=True)
class RunFolder:
    """Names inside the folder of one run."""

    path: Path

    @property
    def settings(self) -> Path:
        """The resolved settings."""
        return self.path / "settings.yaml"

    @property
    def checkpoints(self) -> str:
        """Where the checkpoint files lie, the newest few: a folder here, unless the settings name another or a URL."""
        try:
            named = read_yaml(self.settings).train.checkpoint_dir if self.settings.exists() else None
        except UsageError:
            named = None
        return named or str(self.path / "checkpoints")

    @property
    def metrics(self) -> Path:
        """One JSON object for each meta-step."""
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """The figures of a finished run."""
        return self.path / "result.json"

    @property
    def test_tasks(self) -> Path:
        """The scores of each test task."""
        return self.path / "test_tasks.parquet"

    @property
    def model_card(self) -> Path:
        """What a user of the learner should know, in Markdown."""
        return self.path / "model_card.md"

    @property
    def figures(self) -> Path:
        """Pictures."""
        return self.path / "figures"

    @property
    def identity(self) -> Path:
        """The tracked run that this folder belongs to."""
        return self.path / "run.json"

    @property
    def is_begun(self) -> bool:
        """Whether a run left a checkpoint here."""
        return bool(paths(self.checkpoints))

    def read_identity(self) -> dict[str, str]:
        """`run_id` and `tracking_uri`; empty where they cannot be read."""
        try:
            return json.loads(self.identity.read_text())
        except (OSError, ValueError):
            return {}


def new_folder(recipe: str, out: Path | None) -> RunFolder:
    """The folder of a new run, not made yet; raises `UsageError` if it already holds one."""
    if out is None:
        started = time.strftime("%Y%m%d-%H%M%S")
        names = (started if number == 0 else f"{started}-{number}" for number in range(1000))
        return RunFolder(next(path for name in names if not (path := RUNS.absolute() / recipe / name).exists()))
    folder = RunFolder(out.absolute())
    if folder.is_begun:
        raise UsageError(f"{out} already holds a run: continue it with --resume, or choose another --out")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: choose a folder")
    return folder


def begun_folder(recipe: str | None, out: Path | None) -> RunFolder:
    """The folder of the run to resume: `out`, or the newest of the recipe; raises `UsageError` if there is none."""
    if out is not None:
        folder = RunFolder(out.absolute())
        if not folder.is_begun:
            raise UsageError(f"{out} holds no run to resume: leave out --resume to start one there")
        return folder
    pattern = f"{recipe or '*'}/*/settings.yaml"
    begun = [folder for path in RUNS.absolute().glob(pattern) if (folder := RunFolder(path.parent)).is_begun]
    if not begun:
        name = f"of recipe {recipe!r} " if recipe else ""
        raise UsageError(f"there is no run {name}to resume below {RUNS.absolute()}: name its folder with --out")
    return max(begun, key=lambda folder: folder.settings.stat().st_mtime)


class FoundRun(NamedTuple):
    """A checkpoint, and the folder of the run that wrote it if that is here."""

    checkpoint: str
    folder: RunFolder | None


def find_run(name: str) -> FoundRun | None:
    """The checkpoint that `name` stands for: a file, a run's folder (its newest), or the id of a run below `runs/`.

    File and folder may be URLs. None if there is none; raises `UserError` for a folder without a checkpoint.
    """
    path = Path(name)
    if path.is_file() or (is_url(name) and name.endswith(".mcb")):
        return FoundRun(name, _writer(split(name)[0]))
    if found := paths(name):
        return FoundRun(found[0], _writer(name))
    for folder in () if is_url(name) else (RunFolder(path), *_runs_of(name)):
        if found := paths(folder.checkpoints):
            return FoundRun(found[0], folder)
    if path.exists():
        raise UserError(f"{name} holds no checkpoint: name a run's folder, its id, or a checkpoint file")
    return None


def _writer(checkpoints: str) -> RunFolder | None:
    """The run whose checkpoints lie there: in the folder above, or below `runs/`."""
    above = [] if is_url(checkpoints) else [RunFolder(Path(absolute(checkpoints)).parent)]
    known = [RunFolder(path.parent) for path in RUNS.absolute().glob("*/*/settings.yaml")]
    of_these = (run for run in above + known if absolute(run.checkpoints) == absolute(checkpoints))
    return next(of_these, None)


def _runs_of(run_id: str) -> Iterator[RunFolder]:
    for path in RUNS.absolute().glob("*/*/run.json"):
        folder = RunFolder(path.parent)
        if folder.read_identity().get("run_id") == run_id:
            yield folder


def require_place(path: Path) -> None:
    """Raise `UsageError` if a file cannot be written at `path`: better said before a run than after it."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{path} cannot be written: name a file in a folder of your own")


def write_json(path: Path, tree: Mapping[str, object]) -> None:
    """Write whole or not at all; raises `UserError` if the place cannot be written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(tree, indent=2) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def default_tracking_uri() -> str:
    """The store that MLflow's own variable names, by that name; or the SQLite file beside the runs in this folder."""
    variable = "MLFLOW_TRACKING_URI"
    return f"${variable}" if os.environ.get(variable) else f"sqlite:///{RUNS.absolute() / 'mlflow.db'}"


def require_whole(tracking_uri: str) -> str:
    """`tracking_uri` as a run has it on record; raises `UsageError` if its password was left out there."""
    if ":***@" in tracking_uri or "=***" in tracking_uri:
        raise UsageError(
            f"the run is tracked at {tracking_uri}, and its password is not kept: give --tracking-uri again, with the "
            "name of a variable for the password ('postgresql://mcb:$DB_PASSWORD@db/mlflow')"
        )
    return tracking_uri
