"""Tasks per second of a whole meta-step: each inference method, in process and through Ray with 1 and 2 workers.

`python benchmarks/meta_step.py` prints a table and writes `benchmarks/results/meta-step-DATE.json`. The placements of a
recipe take turns, round after round, so that a machine's moods fall on all of them alike; figures are medians over all
meta-steps but each round's first two. Times hold for an otherwise idle machine: `load_average` says whether it was.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import psutil
from machine import machine, write
from rich.console import Console
from rich.table import Table

from cluster.embedded import ray_cluster
from cluster.plan import StepRecord
from cluster.training import run_meta_training
from jobs.building.objects import build_plan
from jobs.settings.recipes import recipe
from jobs.settings.tree import Settings

RECIPES = {"conjugate": "five-modes", "gradient": "five-modes-maml", "svgd": "five-modes-svgd"}
PLACEMENTS = {"in process": 0, "Ray, 1 worker": 1, "Ray, 2 workers": 2}
NUM_WARM_UP = 2
MOST_PARAMETERS = 10**6  # of a recipe: the size of Ray's shared memory


def measure(settings: Settings, num_workers: int, num_steps: int) -> tuple[list[StepRecord], int]:
    """The records of a short run after its warm-up, and the largest resident size of a process that computes, bytes."""
    settings = settings.model_copy(
        update={
            "train": settings.train.model_copy(update={"num_steps": NUM_WARM_UP + num_steps}),
            "cluster": settings.cluster.model_copy(update={"num_workers": num_workers}),
        }
    )
    records: list[StepRecord] = []
    largest = 0

    def on_step(record: StepRecord) -> None:
        nonlocal largest
        records.append(record)
        if record.version == NUM_WARM_UP + num_steps:
            largest = max(process.memory_info().rss for process in computing(num_workers))

    with tempfile.TemporaryDirectory() as folder:
        run_meta_training(build_plan(settings, Path(folder), "", resume=False), on_step, lambda: False)
    return records[NUM_WARM_UP:], largest


def computing(num_workers: int) -> list[psutil.Process]:
    """This process, or its Ray workers."""
    here = psutil.Process()
    if num_workers == 0:
        return [here]
    return [p for p in here.children(recursive=True) if p.name().startswith("ray::Worker")] or [here]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--num-steps", type=int, default=15, help="meta-steps a round")
    parser.add_argument("--num-rounds", type=int, default=5, help="rounds of every placement")
    arguments = parser.parse_args()
    before = machine()
    rows = []
    with tempfile.TemporaryDirectory() as folder, ray_cluster(folder, 2, MOST_PARAMETERS):
        for inference, name in RECIPES.items():
            settings = recipe(name)
            records: dict[str, list[StepRecord]] = defaultdict(list)
            sizes: dict[str, int] = defaultdict(int)
            for _ in range(arguments.num_rounds):
                for placement, num_workers in PLACEMENTS.items():
                    found, size = measure(settings, num_workers, arguments.num_steps)
                    records[placement] += found
                    sizes[placement] = max(sizes[placement], size)
            for placement in PLACEMENTS:
                rows.append(row(inference, name, placement, settings, records, sizes[placement]))
    path = write("meta-step", {"idle_before": before, "num_rounds": arguments.num_rounds, "rows": rows})
    show(rows)
    print(f"written to {path}")


def row(inference, name, placement, settings: Settings, records, size: int) -> dict[str, str | int | float]:
    step_s = statistics.median(record.step_s for record in records[placement])
    alone_s = statistics.median(record.step_s for record in records["in process"])
    return {
        "inference": inference,
        "recipe": name,
        "placement": placement,
        "meta_batch": settings.train.meta_batch,
        "step_ms": round(1e3 * step_s, 2),
        "communication_ms": round(1e3 * statistics.median(r.communication_s for r in records[placement]), 2),
        "tasks_per_s": round(settings.train.meta_batch / step_s, 1),
        "speed_against_in_process": round(alone_s / step_s, 3),
        "resident_mb": round(size / 1e6),
    }


def show(rows: list[dict[str, str | int | float]]) -> None:
    table = Table("inference", "placement", "ms a meta-step", "tasks/s", "against in process", "resident MB")
    for r in rows:
        table.add_row(
            *(str(r[k]) for k in ("inference", "placement", "step_ms", "tasks_per_s")),
            *(str(r[k]) for k in ("speed_against_in_process", "resident_mb")),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
