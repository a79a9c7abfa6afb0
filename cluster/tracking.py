"""The one writer of a run's record in MLflow: buffered metrics, parameters, artefacts, the final status."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import psutil

from cluster.tracking_store import absolute_uri, experiment_id, find_run_id, first_sentence, open_store

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]

_FLUSH_EVERY_S, _FLUSH_AT = 2.0, 500
_RETRY_AFTER_S = 30.0
_SYSTEM_EVERY_S = 10.0
_LARGEST_BATCH = 1000  # the store's limits, of metrics and of parameters
_LARGEST_PARAMS = 100
_logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """What a run tells of itself while it goes."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record values at a meta-step."""
        ...

    def artifact(self, path: Path, folder: str) -> None:
        """Keep a file, or all files of a folder, with the run."""
        ...

    def close(self, status: Status) -> bool:
        """Write what is left and the status; returns whether the store has taken both."""
        ...


class RunStore(Protocol):
    """The part of `mlflow.tracking.MlflowClient` that writes."""

    def log_batch(self, run_id: str, metrics: "Sequence[Metric]") -> object:
        """Write metrics."""
        ...

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """Keep a file."""
        ...

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str | None = None) -> None:
        """Keep the files of a folder."""
        ...

    def set_terminated(self, run_id: str, status: str | None = None) -> None:
        """Write the status."""
        ...


class Untracked:
    """Records nothing: the run goes on without a tracking store."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def artifact(self, path: Path, folder: str) -> None:
        """Nothing."""

    def close(self, status: Status) -> bool:
        """Nothing."""
        return True


class MlflowTracker:
    """Buffers metrics and writes them every 2 s or 500 metrics, whichever comes first, and at the end.

    A store that stops answering during a run costs no result: what it misses is kept and tried again after 30 s, and
    once more at the end; then a warning says how much was lost. Every 10 s the machine's load is recorded as well.
    """

    def __init__(self, client: RunStore, run_id: str) -> None:
        self._client, self.run_id = client, run_id
        self._buffer: list[Metric] = []
        self._flush_at = time.monotonic() + _FLUSH_EVERY_S
        self._system_at = time.monotonic()
        self._num_system = 0
        self._is_failing = False

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record values at a meta-step."""
        now = time.monotonic()
        if now >= self._system_at:
            self._system_at = now + _SYSTEM_EVERY_S
            self._add(system_metrics(), self._num_system)
            self._num_system += 1
        self._add(values, step)
        if now >= self._flush_at or (len(self._buffer) >= _FLUSH_AT and not self._is_failing):
            self._flush()

    def flush(self) -> None:
        """Write what is kept at once, unless the store did not answer last and is not yet to be tried again."""
        if not self._is_failing or time.monotonic() >= self._flush_at:
            self._flush()

    def artifact(self, path: Path, folder: str) -> None:
        """Keep a file, or all files of a folder, with the run."""
        try:
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), folder)
            else:
                self._client.log_artifact(self.run_id, str(path), folder)
        except Exception as error:  # as many kinds as there are artefact stores; the file itself stays where it is
            _logger.warning("%s was not stored with the tracked run: %s", path, first_sentence(error))

    def close(self, status: Status) -> bool:
        """Write what is left and the status; returns whether the store has taken both: if not, try again."""
        self._flush()
        if self._buffer:
            _logger.warning("%d metrics were not recorded; the run's metrics.jsonl has them", len(self._buffer))
        try:
            self._client.set_terminated(self.run_id, status)
        except Exception as error:
            _logger.warning("the tracked run could not be closed as %s: %s", status, first_sentence(error))
            return False
        return not self._buffer

    def _add(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        timestamp = int(time.time() * 1000)
        self._buffer += [Metric(name, float(value), timestamp, step) for name, value in values.items()]

    def _flush(self) -> None:
        try:
            while self._buffer:
                self._client.log_batch(self.run_id, metrics=self._buffer[:_LARGEST_BATCH])
                del self._buffer[:_LARGEST_BATCH]
        except Exception as error:  # as many kinds as there are stores
            if not self._is_failing:
                _logger.warning("metrics cannot be recorded for now, the run goes on: %s", first_sentence(error))
        self._is_failing = bool(self._buffer)
        self._flush_at = time.monotonic() + (_RETRY_AFTER_S if self._is_failing else _FLUSH_EVERY_S)


class OpenRun(NamedTuple):
    """A run of a store, ready to be written to."""

    client: "MlflowClient"
    run_id: str


def open_run(
    uri: str,
    run_name: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    run_id: str | None = None,
    same_tag: str | None = None,
) -> OpenRun:
    """A new run in the store at `uri`, or the run `run_id` continued (a new one if the store does not know it).

    Without `run_id`, the newest run whose tag `same_tag` is as in `tags` is continued, if there is one.

    Raises `TrackingError` if the store does not answer.
    """
    uri = absolute_uri(uri)
    client = open_store(uri)
    if run_id is None and same_tag is not None:
        run_id = find_run_id(client, uri, same_tag, tags[same_tag])
    if run_id is None or not _reopen(client, run_id):
        run_id = client.create_run(experiment_id(client, uri), run_name=run_name, tags=dict(tags)).info.run_id
    if not client.get_run(run_id).data.params:  # a new run, or one whose store fell silent before it had them
        _log_params(client, run_id, params)
    return OpenRun(client, run_id)


def _log_params(client: "MlflowClient", run_id: str, params: Mapping[str, object]) -> None:
    from mlflow.entities import Param

    entries = [Param(name, str(value)) for name, value in params.items()]
    for start in range(0, len(entries), _LARGEST_PARAMS):
        client.log_batch(run_id, params=entries[start : start + _LARGEST_PARAMS])


def system_metrics() -> dict[str, float]:
    """Load of the machine and memory of the run's largest process, under MLflow's own names where it has one."""
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
        "system/largest_process_megabytes": max(_resident_bytes()) / 1e6,
    }


def _resident_bytes() -> list[int]:
    """Resident memory of this process and all below it."""
    mine = psutil.Process()
    sizes = [mine.memory_info().rss]
    for process in mine.children(recursive=True):
        try:
            sizes.append(process.memory_info().rss)
        except psutil.Error:  # it ended meanwhile
            continue
    return sizes


def _reopen(client: "MlflowClient", run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        _logger.warning("the tracked run %s cannot be continued, a new one begins: %s", run_id, first_sentence(error))
        return False
    return True
