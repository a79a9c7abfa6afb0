"""What a collective run writes down: its meta-steps, its checkpoints, why it failed; it stands beside the driver.

The ranks may come and go with their machines; the checkpoint folder is the driver's, as under the server.
"""

from collections.abc import Sequence

from cluster.checkpoint import Checkpoint, load_newest, save
from cluster.errors import ClusterError
from cluster.plan import ServerPlan, StepRecord
from cluster.policies import Deaths


class Journal:
    """A plain object; `cluster.collective` runs it as a Ray actor. It starts from the newest checkpoint on disk."""

    def __init__(self, plan: ServerPlan) -> None:
        self._plan = plan
        self._newest = load_newest(plan.checkpoint_dir)
        self._version = self._newest.version
        self._records: list[StepRecord] = []
        self._deaths: Deaths | None = None
        self._num_begun = 0
        self._place: object = None
        self._is_stopping = False
        self._error: Exception | None = None

    def begin(self, place: object = None) -> Checkpoint | None:
        """What ranks that start in `place`, for the first time or after a death, go on from; None: the run is over."""
        self._place = place
        self._num_begun += 1
        self._deaths = Deaths() if self._deaths is None else self._deaths.die()
        if not self._deaths.may_replace(self._plan.max_workers):
            self.fail(
                ClusterError(
                    f"the workers died after meta-step {self._version}, and {self._deaths.complaint}: look for the "
                    "cause in Ray's logs, then resume"
                )
            )
        return None if self._is_stopping else self._newest

    def place(self) -> object:
        """Where the ranks that started last were put, as they told; None before."""
        return self._place

    def add(self, records: Sequence[StepRecord]) -> bool:
        """Take meta-steps in, each version once although ranks that start again repeat some; whether to stop now."""
        for record in records:
            is_new = record.version > self._version
            if self._deaths is not None:
                self._deaths = self._deaths.step(is_new)
            if is_new:
                self._version = record.version
                self._records.append(record._replace(restarts=max(0, self._num_begun - 1)))
        return self._is_stopping

    def save(self, checkpoint: Checkpoint) -> bool:
        """Write a checkpoint; whether to stop now, for instance because it could not be written."""
        try:
            save(checkpoint, self._plan.checkpoint_dir, self._plan.checkpoint_keep)
            self._newest = checkpoint
        except Exception as error:
            self.fail(error)
        return self._is_stopping

    def fail(self, error: Exception) -> None:
        """End the run with an error, the first one if there are several."""
        self._error = self._error or error
        self._is_stopping = True

    def stop(self) -> None:
        """Ask the ranks to end after the meta-step at hand."""
        self._is_stopping = True

    def read(self, seen: int) -> list[StepRecord]:
        """The meta-steps after version `seen`; those before are forgotten."""
        self._records = [record for record in self._records if record.version > seen]
        return self._records

    def finish(self) -> Checkpoint:
        """The last checkpoint, once the ranks have ended; raises what made the run fail."""
        if self._error is not None:
            raise self._error
        return self._newest
