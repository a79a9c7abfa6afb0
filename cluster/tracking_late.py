"""A tracked run that is made when its store first answers, which may be after the run has begun."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.tracking import OpenRun

if TYPE_CHECKING:
    from mlflow.entities import Metric


class LateRun:
    """Writes to one run as MLflow's client does, and makes it first if it is not made yet.

    Under an `MlflowTracker`, a store that does not answer when the run begins is like one that falls silent later: what
    it misses is kept and tried again. The methods take no notice of `run_id`; they raise what `make` and the store do.
    """

    def __init__(self, make: Callable[[], OpenRun]) -> None:
        self._make, self._run = make, None

    @property
    def run_id(self) -> str | None:
        """The run's id; None before it is made."""
        return None if self._run is None else self._run.run_id

    def open(self) -> OpenRun:
        """The run, made now if it is not made yet."""
        if self._run is None:
            self._run = self._make()
        return self._run

    def log_batch(self, run_id: str, metrics: "Sequence[Metric]") -> None:
        """Write metrics."""
        client, own = self.open()
        client.log_batch(own, metrics=metrics)

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """Keep a file."""
        client, own = self.open()
        client.log_artifact(own, local_path, artifact_path)

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str | None = None) -> None:
        """Keep the files of a folder."""
        client, own = self.open()
        client.log_artifacts(own, local_dir, artifact_path)

    def set_terminated(self, run_id: str, status: str | None = None) -> None:
        """Write the status."""
        client, own = self.open()
        client.set_terminated(own, status)
