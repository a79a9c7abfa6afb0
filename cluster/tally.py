"""What happened during a meta-step, added up to its record."""

import math
from collections import defaultdict
from collections.abc import Mapping

from cluster.plan import StepRecord
from cluster.shards import GradientKey, ShardReport, sum_by_name


class StepTally:
    """Sums over the reports, updates and waits of one meta-step."""

    def __init__(self) -> None:
        self._reports: dict[GradientKey, ShardReport] = {}
        self._compute_s: defaultdict[str, float] = defaultdict(float)
        self._staleness: list[int] = []
        self._norms: list[float] = []
        self.queue_length = self.refused_pushes = self.repeats = self.num_bytes = 0
        self.waiting_s = 0.0

    def computed(self, worker_id: str, compute_s: float) -> None:
        """A worker spent this on a shard that counts."""
        self._compute_s[worker_id] += compute_s

    def updated(self, reports: Mapping[GradientKey, ShardReport], number: int, norm: float) -> None:
        """Update `number` of the run was made of these reports."""
        self._reports |= reports
        self._staleness += [number - key.base for key in reports]
        self._norms.append(norm)

    @property
    def num_tasks(self) -> int:
        """Tasks of the updates so far."""
        return sum(report.num_tasks for report in self._reports.values())

    def record(
        self, version: int, learning_rate: float, step_s: float, refused: int, refresh: Mapping[str, float]
    ) -> StepRecord:
        """The record of meta-step `version`, which took `step_s`; `refused` is of the whole run."""
        sums = sum_by_name([self._reports[key].statistics for key in sorted(self._reports)])
        num_tasks = self.num_tasks
        compute_s = min(step_s, max(self._compute_s.values(), default=0.0))
        return StepRecord(
            version=version,
            num_tasks=num_tasks,
            loss=sums["loss"] / num_tasks,
            nll=sums["nll"] / num_tasks,
            squared_error=sums["squared_error"] / num_tasks,
            per_mode=_means_by_mode(sums),
            gradient_norm=sum(self._norms) / len(self._norms),
            learning_rate=learning_rate,
            tasks_per_s=num_tasks / step_s if step_s > 0 else math.inf,
            step_s=step_s,
            compute_s=compute_s,
            communication_s=step_s - compute_s,
            staleness_mean=sum(self._staleness) / len(self._staleness),
            staleness_max=max(self._staleness),
            refused=refused,
            queue_length=self.queue_length,
            refused_pushes=self.refused_pushes,
            repeats=self.repeats,
            num_bytes=self.num_bytes,
            waiting_s=self.waiting_s,
            refresh=refresh,
        )


def _means_by_mode(sums: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """`nll`, `squared_error` (means) and `count` of each mode, from sums named `nll/NAME` and so on."""
    names = [name.removeprefix("count/") for name in sums if name.startswith("count/")]
    return {
        name: {
            "nll": sums[f"nll/{name}"] / sums[f"count/{name}"],
            "squared_error": sums[f"squared_error/{name}"] / sums[f"count/{name}"],
            "count": sums[f"count/{name}"],
        }
        for name in names
    }
