"""How fast a trained model serves: one task after the other, and many at once, on one core.

`python benchmarks/serving.py MODEL` takes a trained model, prints a table and writes
`benchmarks/results/serving-DATE.json`: the time to adapt to one task of 5 support points and predict the mean at 50
query points (median and 99th percentile), the interval beside it, tasks a second in batches, and what comes once:
loading and the reference of evidences for one size of support set. Times are by the clock, and beside them in CPU time,
which other programs on the machine disturb less; `load_average` says whether there were any.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from machine import machine, write
from rich.console import Console
from rich.table import Table

from jobs.models.source import load_predictor

NUM_SUPPORT, NUM_QUERY, BATCH = 5, 50, 1000


def timed(work: Callable[[], object], num_rounds: int, num_warm_up: int = 3) -> dict[str, float]:
    """Milliseconds of a call: by the clock (median, 99th percentile) and in CPU time (median)."""
    for _ in range(num_warm_up):
        work()
    clock, processor = [], []
    for _ in range(num_rounds):
        started, spent = time.perf_counter(), time.process_time()
        work()
        clock.append(1e3 * (time.perf_counter() - started))
        processor.append(1e3 * (time.process_time() - spent))
    return {
        "p50_ms": round(statistics.median(clock), 3),
        "p99_ms": round(float(np.quantile(clock, 0.99)), 3),
        "cpu_p50_ms": round(statistics.median(processor), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("model", help="a trained model with one input: a run's folder, a checkpoint, models:/...")
    parser.add_argument("--num-rounds", type=int, default=500, help="calls that are timed")
    arguments = parser.parse_args()
    before = machine()
    torch.set_num_threads(1)
    load = timed(lambda: load_predictor(arguments.model), num_rounds=3, num_warm_up=1)
    predictor = load_predictor(arguments.model)
    generator = np.random.default_rng(0)
    x, y = generator.uniform(-5, 5, NUM_SUPPORT), generator.normal(size=NUM_SUPPORT)
    new = np.linspace(-5, 5, NUM_QUERY)
    post = predictor.adapt(x, y)
    started = time.perf_counter()
    _ = post.evidence_percentile
    once = {"load_ms": load["p50_ms"], "reference_ms": round(1e3 * (time.perf_counter() - started), 1)}
    xs, ys = generator.uniform(-5, 5, (BATCH, NUM_SUPPORT)), generator.normal(size=(BATCH, NUM_SUPPORT))
    news = np.broadcast_to(new, (BATCH, NUM_QUERY))
    few = news[:, :NUM_SUPPORT]
    rows = {
        "adapt": timed(lambda: predictor.adapt(x, y), arguments.num_rounds),
        "adapt and predict": timed(lambda: predictor.adapt(x, y).predict(new).mean, arguments.num_rounds),
        "adapt, predict and interval": timed(
            lambda: predictor.adapt(x, y).predict(new).interval(0.9), arguments.num_rounds
        ),
        "adapt, predict and percentile": timed(
            lambda: (one := predictor.adapt(x, y), one.predict(new).mean, one.evidence_percentile), arguments.num_rounds
        ),
    }
    batches = {
        f"batch of {BATCH}, {NUM_SUPPORT} query points": timed(
            lambda: predictor.adapt_many(xs, ys).predict(few).mean, 7
        ),
        f"batch of {BATCH}, {NUM_QUERY} query points": timed(
            lambda: predictor.adapt_many(xs, ys).predict(news).mean, 7
        ),
    }
    for row in batches.values():
        row["tasks_per_s"] = round(1e3 * BATCH / row["p50_ms"])
        row["tasks_per_cpu_s"] = round(1e3 * BATCH / row["cpu_p50_ms"])
    setting = {"num_modes": predictor.num_modes, "num_support": NUM_SUPPORT, "num_query": NUM_QUERY, "threads": 1}
    result = {"idle_before": before, "settings": predictor.settings, **setting, **once, "rows": rows | batches}
    path = write("serving", result)
    table = Table("", "median ms", "99th percentile", "CPU ms", "tasks/s", "tasks a CPU second")
    for name, row in (rows | batches).items():
        names = ("p50_ms", "p99_ms", "cpu_p50_ms", "tasks_per_s", "tasks_per_cpu_s")
        table.add_row(name, *(f"{row[key]:,}" if key in row else "" for key in names))
    Console(width=110).print(table)
    print(f"loading {once['load_ms']:.0f} ms, reference {once['reference_ms']:.0f} ms; written to {path}")


if __name__ == "__main__":
    main()
