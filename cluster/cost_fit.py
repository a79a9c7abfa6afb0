"""The cost model's constants from measurements, and how far its predictions are from every measured point."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from cluster.cost_model import Costs, Load, Machines, exchange_s
from cluster.wire import DIRECT_BYTES


class Measured(NamedTuple):
    """One point of the capacity benchmark, whose workers compute nothing: seconds of a meta-step.

    `step_s` is wall time; the others are processor seconds: of the server, of one slice (their mean), and, for each
    worker, of everything else that ran.
    """

    load: Load
    step_s: float
    server_s: float
    slice_s: float
    worker_s: float


def fit(points: Sequence[Measured], shared_cores: int) -> Costs:
    """Constants by non-negative least squares on relative errors; all ran on one machine of `shared_cores`.

    Processor times give the prices of each part, and wall times latency and stretch. Raises ValueError without points
    on both sides of `DIRECT_BYTES` and with and without slices.
    """
    direct = [point for point in points if point.load.part_bytes <= DIRECT_BYTES]
    shared = [point for point in points if point.load.part_bytes > DIRECT_BYTES]
    sliced = [point for point in points if point.load.num_slices > 1]
    if not direct or not shared or not sliced or len(sliced) == len(points):
        raise ValueError("the fit needs small and large vectors, with and without slices")
    update_byte, direct_prices, shared_prices = _intake_prices(direct, shared)
    control = _solve(sliced, lambda p: [p.load.num_workers, p.load.num_slices], lambda p: p.server_s)
    worker = _solve(points, _worker_columns, lambda p: p.worker_s)
    costs = Costs(*direct_prices, *shared_prices, update_byte, *control, *worker, latency=0.0, stretch=1.0)
    here = Machines(shared_cores)
    latency, stretch = _solve(points, lambda p: [1.0, exchange_s(costs, p.load, here)], lambda p: p.step_s)
    return replace(costs, latency=latency, stretch=stretch)


def relative_errors(costs: Costs, points: Sequence[Measured], shared_cores: int) -> list[float]:
    """Predicted over measured time of each point, minus 1."""
    here = Machines(shared_cores)
    return [exchange_s(costs, point.load, here) / point.step_s - 1 for point in points]


def held_out_errors(points: Sequence[Measured], shared_cores: int) -> list[float]:
    """`relative_errors` of each point under the fit to all other points; raises what `fit` raises."""
    errors = []
    for index, point in enumerate(points):
        others = [*points[:index], *points[index + 1 :]]
        errors += relative_errors(fit(others, shared_cores), [point], shared_cores)
    return errors


def _intake_prices(
    direct: Sequence[Measured], shared: Sequence[Measured]
) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """The price of a byte of the optimiser's step, and call and byte prices of direct and of shared messages."""

    def columns(point: Measured) -> list[float]:
        workers, size = point.load.num_workers, point.load.part_bytes
        is_direct = size <= DIRECT_BYTES
        own = [workers, workers * size]
        return [size, *(own if is_direct else [0.0, 0.0]), *([0.0, 0.0] if is_direct else own)]

    update, direct_call, direct_byte, shared_call, shared_byte = _solve(
        [*direct, *shared], columns, lambda p: p.slice_s if p.load.num_slices > 1 else p.server_s
    )
    return update, (direct_call, direct_byte), (shared_call, shared_byte)


def _worker_columns(point: Measured) -> list[float]:
    is_direct = point.load.part_bytes <= DIRECT_BYTES
    size = point.load.num_bytes
    return [point.load.messages, size if is_direct else 0.0, 0.0 if is_direct else size]


def _solve(
    points: Sequence[Measured], columns: Callable[[Measured], Sequence[float]], target: Callable[[Measured], float]
) -> tuple[float, ...]:
    """Non-negative least squares, each row divided by its target, each column by its largest entry."""
    targets = np.array([target(point) for point in points])
    rows = np.array([columns(point) for point in points]) / targets[:, None]
    scales = np.abs(rows).max(axis=0)
    scales[scales == 0] = 1.0
    solution, _ = nnls(rows / scales, np.ones(len(points)))
    return tuple(float(value) for value in solution / scales)
