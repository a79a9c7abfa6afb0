"""Where a run stands with its refreshes: the state of the meta-step at hand, and the refresh that is waited for."""

from collections.abc import Mapping, Sequence

import numpy as np

from cluster.checkpoint import Checkpoint
from cluster.refresh import Pending, Refreshed, RefreshPlan, Survey, join
from cluster.shards import ShardReport


class RefreshState:
    """Continued from a fitting `checkpoint`; of a run without refreshes (`plan` None) it says no to everything.

    From the survey of meta-step v until meta-step v + lag begins there is one refresh, at first under way and then
    pending. A pending one becomes the state of the run when the first update under it is made.
    """

    def __init__(self, plan: RefreshPlan | None, checkpoint: Checkpoint) -> None:
        self._plan = plan
        self._state, self._pending = checkpoint.mode_state, checkpoint.pending
        self._survey: Survey | None = None
        self._due: int | None = None
        self._metrics: Mapping[str, float] = {}

    def num_surveyed(self, version: int) -> int:
        """Tasks that meta-step `version` surveys."""
        return 0 if self._plan is None else self._plan.num_surveyed(version)

    @property
    def is_under_way(self) -> bool:
        """Whether a survey is complete and its refresh not here yet."""
        return self._due is not None

    @property
    def survey(self) -> Survey | None:
        """What the meta-step of the update under way found, if it surveyed: to be refreshed and delivered."""
        return self._survey

    @property
    def state(self) -> np.ndarray | None:
        """That of the updates made so far, which a checkpoint keeps beside what is pending."""
        return self._state

    @property
    def pending(self) -> Pending | None:
        """The refresh that is here and not adopted."""
        return self._pending

    def is_ready(self, version: int) -> bool:
        """Whether meta-step `version` may begin: all refreshes to be adopted before it are here."""
        return self._due is None or version < self._due

    def state_at(self, version: int) -> np.ndarray | None:
        """The state under which meta-step `version`, which may begin, is computed."""
        pending = self._pending
        return self._state if pending is None or version < pending.version else pending.state

    def gather(self, version: int, reports: Sequence[ShardReport]) -> None:
        """Take note that all shards of meta-step `version` are here, in their order."""
        if self._plan is None:
            return
        if self._pending is not None and self._pending.version <= version:
            _, self._state, self._metrics = self._pending
            self._pending = None
        self._survey = None
        num_tasks = self.num_surveyed(version)
        if not num_tasks:
            return
        rows = join([report.survey for report in reports])
        if rows is None or len(rows) != num_tasks or self._state is None:
            raise RuntimeError(f"meta-step {version} surveyed {0 if rows is None else len(rows)} of {num_tasks} tasks")
        self._due = version + self._plan.lag
        self._survey = Survey(version, self._state, rows)

    def deliver(self, refreshed: Refreshed) -> Pending:
        """Take in the refresh that was under way."""
        if self._due is None:
            raise RuntimeError("no refresh is under way")
        self._pending, self._due = Pending(self._due, *refreshed), None
        return self._pending

    def close(self) -> Mapping[str, float]:
        """A meta-step is done: the metrics of the refresh that it was the first to see, if it was."""
        metrics, self._metrics = self._metrics, {}
        return metrics
