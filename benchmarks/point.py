"""A point of the capacity benchmark: what was seen under one load, as it is written down and read again."""

from typing import NamedTuple

from cluster.cost_fit import Measured
from cluster.cost_model import Load


class Point(NamedTuple):
    """One load, and what was seen under it."""

    measured: Measured
    num_steps: int
    pushes_per_s: float
    megabytes_per_s: float
    p50_ms: float
    p99_ms: float

    def row(self) -> dict[str, float]:
        """The numbers by name, as they are written down."""
        seen = self.measured
        return {
            "clients": seen.load.num_workers,
            "megabytes": seen.load.num_bytes / 1e6,
            "slices": seen.load.num_slices,
            "meta_steps": self.num_steps,
            "step_ms": round(1e3 * seen.step_s, 3),
            "pushes_per_s": round(self.pushes_per_s, 1),
            "megabytes_per_s": round(self.megabytes_per_s, 1),
            "p50_ms": round(self.p50_ms, 2),
            "p99_ms": round(self.p99_ms, 2),
            "server_cpu_ms": round(1e3 * seen.server_s, 4),
            "slice_cpu_ms": round(1e3 * seen.slice_s, 4),
            "worker_cpu_ms": round(1e3 * seen.worker_s, 4),
        }


def measured_of(row: dict[str, float]) -> Measured:
    """A written row as the cost model reads it."""
    load = Load(int(row["clients"]), row["megabytes"] * 1e6, int(row["slices"]))
    return Measured(load, *(row[name] / 1e3 for name in ("step_ms", "server_cpu_ms", "slice_cpu_ms", "worker_cpu_ms")))
