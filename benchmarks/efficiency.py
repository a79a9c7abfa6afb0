"""What Ray costs and what a second worker brings, on a recipe whose time goes into computing."""

import statistics
from collections import defaultdict

from meta_step import measure

from cluster.gradient import initial_parameters
from cluster.plan import StepRecord
from jobs.build import build_learner, build_source
from jobs.settings import Settings

PLACEMENTS = {"in process": 0, "1 worker": 1, "2 workers": 2}


def efficiency(settings: Settings, num_steps: int, num_rounds: int) -> list[dict[str, str | int | float]]:
    """Medians over all meta-steps of a placement; placements take turns, so a machine's moods fall on all alike."""
    records: dict[str, list[StepRecord]] = defaultdict(list)
    for _ in range(num_rounds):
        for placement, num_workers in PLACEMENTS.items():
            records[placement] += measure(settings, num_workers, num_steps)[0]
    one_s = statistics.median(record.step_s for record in records["1 worker"])
    alone_s = statistics.median(record.step_s for record in records["in process"])
    megabytes = initial_parameters(build_learner(settings, build_source(settings))).nbytes / 1e6
    rows = []
    for placement, num_workers in PLACEMENTS.items():
        step_s = statistics.median(record.step_s for record in records[placement])
        rows.append(
            {
                "recipe": settings.recipe,
                "placement": placement,
                "workers": num_workers,
                "meta_batch": settings.train.meta_batch,
                "num_shards": settings.train.num_shards,
                "megabytes": round(megabytes, 4),
                "step_ms": round(1e3 * step_s, 2),
                "compute_ms": round(1e3 * statistics.median(r.compute_s for r in records[placement]), 2),
                "against_in_process": round(alone_s / step_s, 3),
                "against_1_worker": round(one_s / step_s, 3),
            }
        )
    return rows
