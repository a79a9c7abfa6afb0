"""What the parameter server can take: real server, slices and messages, workers that compute nothing."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import psutil
import ray
from point import Point
from ray.actor import ActorHandle

from cluster.aggregation import AggregationPlan
from cluster.checkpoint import Checkpoint, save
from cluster.code_version import code_version
from cluster.coordinator import Progress
from cluster.cost_fit import Measured
from cluster.cost_model import Load
from cluster.link import ServerLink
from cluster.optimizer_plan import OptimizerPlan
from cluster.plan import ServerPlan
from cluster.server import Address, Server
from cluster.shards import Shard, ShardReport
from cluster.slice_actors import SliceActors

NUM_WARM_UP = 3  # meta-steps


class LightWorkers:
    """Runs as a Ray actor: several workers as threads, each of which answers a shard with a gradient made before."""

    def run(self, names: Sequence[str], address: Address, num_parameters: int) -> list[tuple[float, float]]:
        """Work until the run is over; start and length of every exchange, seconds."""
        gradient = np.full(num_parameters, 1e-3, dtype=np.float32)

        def work(name: str) -> list[tuple[float, float]]:
            link = ServerLink(name, address, "float32")
            reports: list[ShardReport] = []
            exchanges: list[tuple[float, float]] = []
            while True:
                began = time.time()
                found = link.ask(reports)
                if found is None:
                    return exchanges
                if reports:
                    exchanges.append((began, time.time() - began))
                reports = [report(shard, gradient) for shard in found.shards]

        with ThreadPoolExecutor(len(names)) as threads:
            return [exchange for exchanges in threads.map(work, names) for exchange in exchanges]


def report(shard: Shard, gradient: np.ndarray) -> ShardReport:
    """A report of no computation."""
    return ShardReport(shard, gradient, {"loss": 1.0, "nll": 1.0, "squared_error": 1.0}, 0.0)


def server_plan(load: Load, num_steps: int, folder: Path) -> ServerPlan:
    """A synchronous run with a shard for every worker."""
    return ServerPlan(
        num_steps=num_steps,
        meta_batch=load.num_workers,
        num_shards=load.num_workers,
        max_workers=load.num_workers,
        optimizer=OptimizerPlan(learning_rate=1e-3),
        aggregation=AggregationPlan(num_slices=load.num_slices, straggler_factor=None),
        parameter_shapes={"all": (int(load.num_bytes) // 4,)},
        checkpoint_dir=str(folder),
        checkpoint_every=10**9,
        checkpoint_keep=1,
        settings_yaml="",
    )


def measure(load: Load, seconds: float, num_processes: int) -> Point:
    """Meta-steps under `load` for about so long, after a few that warm up."""
    with tempfile.TemporaryDirectory() as folder:
        plan = server_plan(load, 10**6, Path(folder))
        start = np.zeros(plan.num_parameters, dtype=np.float32)
        save(Checkpoint(0, start, plan.parameter_shapes, plan.optimizer.name, {}), plan.checkpoint_dir, 1)
        slices = SliceActors(plan)
        options = ray.remote(Server).options(num_cpus=0, max_concurrency=plan.max_calls)
        server = cast(ActorHandle, options.remote(code_version(), plan, 0, slices.actors))
        names = [f"worker-{index}" for index in range(load.num_workers)]
        workers = [ray.remote(LightWorkers).options(num_cpus=0).remote() for _ in range(num_processes)]
        try:
            runs = [
                worker.run.remote(names[index::num_processes], Address(server, 0), plan.num_parameters)
                for index, worker in enumerate(workers)
            ]
            return watch(load, server, runs, seconds)
        finally:
            for actor in [*workers, server]:
                ray.kill(cast(ActorHandle, actor))
            slices.stop()


def watch(load: Load, server: ActorHandle, runs: Sequence[ray.ObjectRef], seconds: float) -> Point:
    """Let the run go on for so long, then end it and put together what was seen."""
    version = 0
    while version < NUM_WARM_UP:
        version = last_version(server, version, runs)
    began, first, before = time.time(), version, processor_s()
    while time.time() < began + seconds or version < first + NUM_WARM_UP:
        version = last_version(server, version, runs)
    ended, after = time.time(), processor_s()
    ray.get(server.finish.remote(version))
    exchanges = [exchange for found in ray.get(list(runs)) for exchange in found]
    lengths = sorted(length for at, length in exchanges if began <= at and at + length <= ended)
    num_steps = version - first
    spent = {name: (after[name] - before.get(name, 0.0)) / num_steps for name in after}
    step_s = (ended - began) / num_steps
    pushes_per_s = load.num_workers / step_s
    measured = Measured(
        load,
        step_s,
        server_s=spent["Server"],
        slice_s=spent["Slice"] / load.num_slices if load.num_slices > 1 else 0.0,
        worker_s=spent["rest"] / load.num_workers,
    )
    return Point(
        measured,
        num_steps,
        pushes_per_s,
        megabytes_per_s=2 * pushes_per_s * load.num_bytes / 1e6,
        p50_ms=1e3 * statistics.median(lengths),
        p99_ms=1e3 * lengths[int(0.99 * len(lengths))],
    )


def last_version(server: ActorHandle, seen: int, runs: Sequence[ray.ObjectRef]) -> int:
    """The newest meta-step, waiting for one after `seen`; raises what a worker raised."""
    answer = server.progress.remote(seen)
    ended, _ = ray.wait([answer, *runs], num_returns=1)
    if answer not in ended:
        ray.get(ended)
        raise RuntimeError("workers ended in the midst of the run")
    return cast(Progress, ray.get(answer)).records[-1].version


def processor_s() -> dict[str, float]:
    """Processor seconds so far of the server, of all slices, and of the rest of this run's processes."""
    spent = {"Server": 0.0, "Slice": 0.0, "rest": 0.0}
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        try:
            times, title = process.cpu_times(), " ".join(process.cmdline()[:1])
        except psutil.Error:  # it ended meanwhile
            continue
        name = title.removeprefix("ray::").split(".")[0].strip()
        spent[name if name in ("Server", "Slice") else "rest"] += times.user + times.system
    return spent
