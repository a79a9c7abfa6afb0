"""The record of every meta-step: all of them in a file, means over short windows in the tracking store."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from cluster.metric_names import TOTALS, joined
from cluster.plan import StepRecord
from cluster.tracking import Tracker

_NUM_POINTS = 500  # of each metric in the tracking store: what a chart can show


def step_metrics(record: StepRecord) -> dict[str, float]:
    """A meta-step's numbers by the names that they have in the record; what is not finite is left out."""
    values = {
        "train/loss": record.loss,
        "train/nll": record.nll,
        "train/mse": record.squared_error,
        "train/gradient_norm": record.gradient_norm,
        "train/learning_rate": record.learning_rate,
        "train/refused_steps": record.refused,
        "speed/tasks_per_s": record.tasks_per_s,
        "speed/step_s": record.step_s,
        "speed/compute_s": record.compute_s,
        "speed/communication_s": record.communication_s,
        "staleness/mean": record.staleness_mean,
        "staleness/max": record.staleness_max,
        "server/queue_length": record.queue_length,
        "server/refused_pushes": record.refused_pushes,
        "server/repeats": record.repeats,
        "server/megabytes": record.num_bytes / 1e6,
        "server/waiting_s": record.waiting_s,
        "cluster/workers": record.num_workers,
        "cluster/restarts": record.restarts,
    }
    for name, row in record.per_mode.items():
        values |= {joined("train", name, "nll"): row["nll"], joined("train", name, "mse"): row["squared_error"]}
    values |= {joined("modes", name): value for name, value in record.refresh.items()}
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


class Export(Protocol):
    """Who is told every meta-step's numbers at once."""

    def add(self, values: Mapping[str, float]) -> None:
        """Take a meta-step's numbers in."""
        ...


class StepLog:
    """Writes each `StepRecord` to `path` as a line of JSON, to `export` as it is, and tells `tracker` windows of them.

    These are some `num_points`: means over the window, of running totals the last. A run that is resumed repeats the
    steps after its checkpoint: their old lines are dropped.
    """

    def __init__(
        self,
        path: Path,
        tracker: Tracker,
        num_steps: int,
        num_points: int = _NUM_POINTS,
        export: Export | None = None,
    ) -> None:
        self._path, self._tracker, self._export = path, tracker, export
        self._window = max(1, num_steps // num_points)
        self._windows: dict[str, list[float]] = {}
        self._num_waiting = 0
        self._last = 0
        self._file = None

    def __enter__(self) -> Self:
        """The file is opened by the first record, which says where the run stands."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what waits."""
        self._tell()
        if self._file is not None:
            self._file.close()

    def add(self, record: StepRecord) -> None:
        """Take a meta-step in."""
        values = step_metrics(record)
        if self._file is None:
            kept = [json.dumps(row) + "\n" for row in read_steps(self._path) if row["step"] < record.version]
            self._path.write_text("".join(kept))
            self._file = self._path.open("a", buffering=1)  # whole lines, for those who follow it
        self._file.write(json.dumps({"step": record.version, **values}) + "\n")
        for name, value in values.items():
            self._windows.setdefault(name, []).append(value)
        if self._export is not None:
            self._export.add(values)
        self._last = record.version
        self._num_waiting += 1
        if self._num_waiting >= self._window:
            self._tell()

    def _tell(self) -> None:
        if self._windows:
            told = {
                name: values[-1] if name in TOTALS else sum(values) / len(values)
                for name, values in self._windows.items()
            }
            self._tracker.metrics(told, self._last)
        self._windows, self._num_waiting = {}, 0


def read_steps(path: Path) -> list[dict[str, float]]:
    """The rows of a `StepLog`'s file; none where there is no file. A last line cut off by a crash is passed over."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
