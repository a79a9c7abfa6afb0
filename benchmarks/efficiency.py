"""What Ray costs and what a second worker brings, on recipes whose time goes into computing."""

import statistics
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from meta_step import measure

from cluster.gradient import initial_parameters
from cluster.plan import StepRecord
from jobs.building.objects import build_learner, build_source
from jobs.settings.recipes import recipe
from jobs.settings.tree import Settings

PLACEMENTS = {"in process": 0, "1 worker": 1, "2 workers": 2}
APART = "two unrelated processes"  # each a whole run in process: what the machine's cores can do together


def compute_bound(name: str, times: int) -> Settings:
    """A recipe with a larger meta-batch, so that the exchange is a small part of a meta-step."""
    settings = recipe(name)
    train = settings.train.model_copy(update={"meta_batch": times * settings.train.meta_batch})
    return settings.model_copy(update={"train": train})


def efficiency(settings: Settings, num_steps: int, num_rounds: int) -> list[dict[str, str | int | float]]:
    """Medians over all meta-steps of a placement; placements take turns, so a machine's moods fall on all alike."""
    records: dict[str, list[StepRecord]] = defaultdict(list)
    for _ in range(num_rounds):
        for placement, num_workers in PLACEMENTS.items():
            records[placement] += measure(settings, num_workers, num_steps)[0]
        records[APART] += apart(settings, num_steps)
    one_s = statistics.median(record.step_s for record in records["1 worker"])
    alone_s = statistics.median(record.step_s for record in records["in process"])
    megabytes = initial_parameters(build_learner(settings, build_source(settings))).nbytes / 1e6
    rows = []
    for placement, num_workers in {**PLACEMENTS, APART: 2}.items():
        num_runs = 2 if placement == APART else 1
        step_s = statistics.median(record.step_s for record in records[placement]) / num_runs
        rows.append(
            {
                "recipe": settings.recipe,
                "placement": placement,
                "workers": num_workers,
                "meta_batch": settings.train.meta_batch,
                "num_shards": settings.train.num_shards,
                "megabytes": round(megabytes, 4),
                "step_ms": round(1e3 * step_s, 2),
                "compute_ms": round(1e3 * statistics.median(r.compute_s for r in records[placement]) / num_runs, 2),
                "against_in_process": round(alone_s / step_s, 3),
                "against_1_worker": round(one_s / step_s, 3),
            }
        )
    return rows


def apart(settings: Settings, num_steps: int) -> list[StepRecord]:
    """The meta-steps of two runs at once that know nothing of each other."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        first, second = pool.map(_run, [settings] * 2, [num_steps] * 2)
    return first + second


def _run(settings: Settings, num_steps: int) -> list[StepRecord]:
    return measure(settings, 0, num_steps)[0]
