"""The trials of a search as they stand: a small file each, written whole, so that no end of the driver loses one."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Self

from jobs.runs.folder import RunFolder, write_json
from jobs.search.spaces import Value
from jobs.settings.section import Section

_RECORD = "trial.json"

State = Literal["running", "finished", "stopped", "failed"]


class Report(Section):
    """What a trial says of itself at a checkpoint: `objective` is the NLL on validation tasks, nats per query point.

    `num_modes` counts the codes that are the likeliest one of some validation task; `seconds` were spent in meta-steps.
    """

    num_steps: int
    objective: float
    seconds: float
    num_modes: int


class Trial(Section):
    """One trial: what it tries, the tracked run that shows it, and what it has reported, oldest first.

    `stopped` trials ended early because others did better; `error` says why one failed.
    """

    number: int
    point: Mapping[str, Value]
    run_id: str | None = None
    state: State = "running"
    reports: tuple[Report, ...] = ()
    error: str = ""

    @property
    def name(self) -> str:
        """The trial's id, and its folder's name."""
        return trial_name(self.number)

    @property
    def last(self) -> Report | None:
        """The newest report."""
        return self.reports[-1] if self.reports else None

    @property
    def objective(self) -> float | None:
        """The newest objective; None before the first report."""
        return None if self.last is None else self.last.objective


def trial_name(number: int) -> str:
    """Names that sort as numbers do.

    >>> trial_name(7)
    'trial-0007'
    """
    return f"trial-{number:04}"


class TrialFolder(NamedTuple):
    """Names inside a trial's folder, which is a run's."""

    run: RunFolder

    @classmethod
    def of(cls, trials: Path, number: int) -> Self:
        """The folder of trial `number` below `trials`."""
        return cls(RunFolder(trials / trial_name(number)))

    @property
    def record(self) -> Path:
        """The trial's record."""
        return self.run.path / _RECORD

    @property
    def error(self) -> Path:
        """Why the trial failed last."""
        return self.run.path / "error.txt"


class Trials:
    """The trials below `folder`, in memory and on disk."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        found = (json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{_RECORD}")))
        self._trials = {trial.number: trial for trial in map(Trial.model_validate, found)}

    def __iter__(self) -> Iterator[Trial]:
        """In the order of their numbers."""
        return iter([self._trials[number] for number in sorted(self._trials)])

    def __len__(self) -> int:
        return len(self._trials)

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    def put(self, trial: Trial) -> None:
        """Keep a trial as it is now."""
        self._trials[trial.number] = trial
        write_json(TrialFolder.of(self.path, trial.number).record, trial.model_dump(mode="json"))

    def of_state(self, *states: State) -> list[Trial]:
        """Those in one of the states."""
        return [trial for trial in self if trial.state in states]

    @property
    def ranked(self) -> list[Trial]:
        """Those with an objective: first by how far they came, then the best first; failed ones are left out.

        A trial that was stopped is not better than one that was let go on, whatever its last objective was.
        """
        scored = [trial for trial in self if trial.last is not None and trial.state != "failed"]
        return sorted(scored, key=lambda trial: (-trial.reports[-1].num_steps, trial.reports[-1].objective))

    @property
    def best(self) -> Trial | None:
        """The best of those that came furthest; None before the first report."""
        return next(iter(self.ranked), None)
