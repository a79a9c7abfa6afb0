"""The tables of docs/scaling.md from a result of `benchmarks/runtime.py`: measured, predicted, and the errors.

`python benchmarks/scaling.py benchmarks/results/runtime-DATE.json` writes each table between its two marks.
"""

import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from point import measured_of

from cluster.cost_fit import held_out_errors, relative_errors
from cluster.cost_model import Costs, Job, Load, Machines, advice, busy, exchange_s, saturation, step_s

DOCUMENT = Path(__file__).parent.parent / "docs" / "scaling.md"
EXAMPLE = Job(meta_batch=2000, task_s=0.05)  # 100 s of computing in a meta-step
WORKERS = (1, 10, 30, 100, 300, 1000)
CLUSTERS = {
    "1 Gbit/s": Machines(None, 1.25e8),
    "10 Gbit/s": Machines(None, 1.25e9),
    "100 Gbit/s": Machines(None, 1.25e10),
}


def tables(result: dict) -> dict[str, str]:
    """Every table by the name of its marks."""
    costs, here = Costs(**result["costs"]), Machines(result["cores"])
    return {
        "efficiency": efficiency(result["efficiency"], costs, here),
        "capacity": capacity(result["capacity"], costs, result["cores"]),
        "costs": prices(costs),
        "predictions": predictions(costs),
        "saturation": saturations(costs),
        "recovery": recovery(result["recovery"]),
    }


def efficiency(rows: Sequence[dict], costs: Costs, here: Machines) -> str:
    """Placements beside what the model says of them, given the time in process."""
    lines = []
    for row in rows:
        alone = next(other for other in rows if other["recipe"] == row["recipe"] and not other["workers"])
        job = Job(alone["meta_batch"], alone["step_ms"] / 1e3 / alone["meta_batch"])
        load = Load(row["workers"], row["megabytes"] * 1e6)
        predicted_s = step_s(costs, job, load, here) if row["workers"] else job.compute_s(1)
        lines.append(
            (
                f"{row['recipe']}, {row['placement']}",
                f"{row['step_ms']:.1f}",
                f"{row['compute_ms']:.1f}",
                f"{row['against_in_process']:.2f}",
                f"{row['against_1_worker']:.2f}",
                f"{1e3 * predicted_s:.1f}",
                percent(1e3 * predicted_s / row["step_ms"] - 1),
            )
        )
    names = ("placement", "meta-step, ms", "computing, ms", "× in process", "× 1 worker", "predicted, ms", "error")
    return table(names, lines)


def capacity(rows: Sequence[dict], costs: Costs, cores: int) -> str:
    """Every point, its prediction, and the errors' summary."""
    points = [measured_of(row) for row in rows]
    errors = relative_errors(costs, points, cores)
    lines = [
        (
            f"{row['clients']}",
            f"{row['megabytes']:g}",
            f"{row['slices']}",
            f"{row['pushes_per_s']:,.0f}",
            f"{row['megabytes_per_s']:,.0f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
            f"{row['step_ms']:.1f}",
            f"{row['step_ms'] * (1 + error):.1f}",
            percent(error),
        )
        for row, error in zip(rows, errors, strict=True)
    ]
    names = ("clients", "MB", "slices", "pushes/s", "MB/s", "p50, ms", "p99, ms", "meta-step, ms", "predicted", "error")
    summary = f"Absolute error: {spread(errors)}."
    if len(points) > 1:
        summary += f" Each point predicted by a fit to the others: {spread(held_out_errors(points, cores))}."
    return f"{table(names, lines)}\n\n{summary}"


def spread(errors: Sequence[float]) -> str:
    """How large errors are, in words."""
    sizes = [abs(error) for error in errors]
    return (
        f"median {100 * statistics.median(sizes):.0f} %, largest {100 * max(sizes):.0f} %, "
        f"{sum(size <= 0.25 for size in sizes)} of {len(sizes)} within 25 %"
    )


def prices(costs: Costs) -> str:
    """The fitted constants."""
    calls = ("direct_call", "shared_call", "control_call", "fanout_call", "worker_call")
    sizes = ("direct_byte", "shared_byte", "update_byte", "worker_direct_byte", "worker_shared_byte")
    lines = [(name, f"{1e3 * getattr(costs, name):.3f} ms") for name in calls]
    lines += [(name, f"{1e9 * getattr(costs, name):.3f} ms/MB") for name in sizes]
    lines += [("latency", f"{1e3 * costs.latency:.2f} ms"), ("stretch", f"{costs.stretch:.2f}")]
    return table(("constant", "value"), lines)


def predictions(costs: Costs) -> str:
    """Seconds of a meta-step of the example by number of workers, with what bounds the exchange."""
    lines = []
    for network, machines in CLUSTERS.items():
        for megabytes in (0.1, 10.0, 100.0):
            for slices in (1, 8):
                cells = []
                for workers in WORKERS:
                    load = Load(workers, 1e6 * megabytes, slices)
                    share = exchange_s(costs, load, machines) / step_s(costs, EXAMPLE, load, machines)
                    part = busy(costs, load, machines).bottleneck
                    note = f" ({part} {100 * share:.0f} %)" if share >= 0.1 else ""
                    cells.append(f"{step_s(costs, EXAMPLE, load, machines):.2f}{note}")
                lines.append((network, f"{megabytes:g}", f"{slices}", *cells))
    return table(("network", "MB", "slices", *(f"{workers} workers" for workers in WORKERS)), lines)


def saturations(costs: Costs) -> str:
    """Where more workers stop helping the example, and what to change there."""
    lines = []
    for network, machines in CLUSTERS.items():
        for megabytes in (0.1, 1.0, 10.0, 100.0):
            for slices in (1, 8):
                load = Load(1, 1e6 * megabytes, slices)
                best = saturation(costs, EXAMPLE, load, machines)
                there = load._replace(num_workers=best)
                seconds = step_s(costs, EXAMPLE, there, machines)
                beyond = advice(costs, EXAMPLE, load._replace(num_workers=4 * best), machines)
                lines.append((network, f"{megabytes:g}", f"{slices}", f"{best}", f"{seconds:.2f} s", f"`{beyond}`"))
    return table(("network", "MB", "slices", "workers", "meta-step", "then change"), lines)


def recovery(rows: Sequence[dict]) -> str:
    """Medians over the kills of each kind."""
    lines = []
    for kind in dict.fromkeys(_kind(row) for row in rows):
        mine = [row for row in rows if _kind(row) == kind]
        still = [row["stood_still_s"] for row in mine]
        lines.append(
            (
                kind,
                f"{len(mine)}",
                _median([row["noticed_s"] for row in mine]),
                _median([row["replaced_s"] for row in mine]),
                f"{statistics.median(still):.2f} s",
                f"{max(still):.2f} s",
            )
        )
    return table(("killed", "kills", "noticed after", "then replaced after", "stood still, median", "longest"), lines)


def _kind(row: dict) -> str:
    machines = f"{row['num_workers']} workers, {row['num_slices']} slices"
    ranks = f" of {row['num_ranks']} ranks each" if row["num_ranks"] > 1 else ""
    return f"{row['victim'].lower()} of {machines}{ranks}"


def _median(seconds: Sequence[float | None]) -> str:
    """Over those that were seen."""
    seen = [one for one in seconds if one is not None]
    return f"{statistics.median(seen):.2f} s" if seen else "not seen"


def table(names: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [names, ["---"] * len(names), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def percent(share: float) -> str:
    """A signed share."""
    return f"{100 * share:+.0f} %"


def fill(document: str, made: dict[str, str]) -> str:
    """The document with each table between its marks; raises ValueError for marks that are missing."""
    for name, text in made.items():
        marks = f"<!-- {name} -->", f"<!-- end {name} -->"
        document, num = re.subn(
            rf"{marks[0]}.*?{marks[1]}", lambda _, text=text, marks=marks: f"{marks[0]}\n{text}\n{marks[1]}", document,
            flags=re.DOTALL,
        )  # fmt: skip
        if num != 1:
            raise ValueError(f"{num} places are marked for the table {name!r}, not 1")
    return document


if __name__ == "__main__":
    DOCUMENT.write_text(fill(DOCUMENT.read_text(), tables(json.loads(Path(sys.argv[1]).read_text()))))
