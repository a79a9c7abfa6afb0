"""The runtime under load: what Ray costs, what the server can take, how long a kill holds a run up.

`python benchmarks/runtime.py` measures all three and writes `benchmarks/results/runtime-DATE.json`, with the cost model
fitted to the figures; `--parts capacity` measures one and keeps what the day's file has of the others, `--quick` only
shows that it works. `benchmarks/scaling.py` then makes the tables of docs/scaling.md. Times hold for an otherwise idle
machine: `load_average` says whether it was.
"""

import argparse
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from capacity import measure
from efficiency import compute_bound, efficiency
from machine import machine, of_today, write
from point import measured_of
from recovery import SCENARIOS, recovery
from rich.console import Console
from rich.table import Table

from cluster.cost_fit import fit, relative_errors
from cluster.cost_model import Load
from cluster.embedded import ray_cluster
from jobs.settings.recipes import recipe

PARTS = ("efficiency", "capacity", "recovery")
COMPUTE_BOUND = {"five-modes": 4, "five-modes-svgd": 4, "five-modes-maml": 4}  # by what times their meta-batch
CLIENTS, MEGABYTES, SLICES = (8, 32, 128), (0.1, 1.0, 10.0), (1, 2, 4)
STORE_PARAMETERS = (
    12 * 2**20
)  # of a vector for which a run's cluster would have the shared memory that 128 clients need


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each point of the second part")
    parser.add_argument("--rounds", type=int, default=5, help="of the first part, and kills of each kind in the third")
    parser.add_argument("--quick", action="store_true", help="few and short, to see that it works; writes nothing")
    arguments = parser.parse_args()
    rounds, seconds = (1, 1.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    cores = os.cpu_count() or 1
    result: dict = {"idle_before": machine(), "cores": cores}
    with tempfile.TemporaryDirectory() as folder, ray_cluster(Path(folder), max(4, cores), STORE_PARAMETERS):
        if "efficiency" in arguments.parts:
            result["efficiency"] = [
                row
                for name, times in COMPUTE_BOUND.items()
                for row in efficiency(compute_bound(name, times), 4 if arguments.quick else 10, rounds)
            ]
            show(result["efficiency"])
        if "capacity" in arguments.parts:
            result["capacity"] = [measure(load, seconds, 2 * cores).row() for load in loads(arguments.quick)]
            points = [measured_of(row) for row in result["capacity"]]
            costs = fit(points, cores)
            result["costs"] = asdict(costs)
            for row, error in zip(result["capacity"], relative_errors(costs, points, cores), strict=True):
                row["prediction_error"] = round(error, 3)
            show(result["capacity"])
        if "recovery" in arguments.parts:
            settings = recipe("two-modes")
            result["recovery"] = [recovery(settings, scenario) for scenario in SCENARIOS for _ in range(rounds)]
            show(result["recovery"])
    if not arguments.quick:
        print(f"written to {write('runtime', {**of_today('runtime'), **result})}")


def loads(is_quick: bool) -> list[Load]:
    """Every load of the second part, or a few of them."""
    if is_quick:
        return [Load(4, 1e5), Load(4, 4e6), Load(4, 1e5, 2), Load(8, 4e6, 2), Load(8, 1e5), Load(8, 4e6)]
    return [
        Load(clients, 1e6 * megabytes, slices) for clients in CLIENTS for megabytes in MEGABYTES for slices in SLICES
    ]


def show(rows: list[dict]) -> None:
    """A table of rows that have the same columns."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
