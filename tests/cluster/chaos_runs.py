"""The runs that are disturbed: `slices`, plain workers and a server in two slices, and `ranks`, workers of two each."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from fake_learner import build_gradient, slow_gradient, training_plan
from group_learner import build_share, group_plan_of, with_ranks

from cluster.aggregation import AggregationPlan
from cluster.checkpoint import paths
from cluster.plan import TrainingPlan
from cluster.shards import Shard, ShardReport
from cluster.training import run_meta_training
from mcb.sharing import Sharing

NUM_STEPS = 30
KINDS = {
    "slices": ("worker", "worker", "server", "slice", "node", "driver"),
    "ranks": ("rank", "rank", "server", "node", "driver"),
}


class SlowShare:
    """A rank's part of a shard, which takes at least 20 ms."""

    def __init__(self, sharing: Sharing) -> None:
        self.inner = build_share("svgd", sharing)

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        time.sleep(0.02)
        return self.inner(parameters, shard)


def run_of(seed: int) -> str:
    """Which run a seed disturbs: every third one has groups."""
    return "ranks" if seed % 3 == 0 else "slices"


def slices(folder: Path, num_workers: int) -> TrainingPlan:
    build = slow_gradient if num_workers else build_gradient
    plan = training_plan(folder, num_steps=NUM_STEPS, num_workers=num_workers, build=build)
    return replace(plan, aggregation=AggregationPlan(num_slices=2))


def ranks(folder: Path, num_workers: int) -> TrainingPlan:
    return with_ranks(group_plan_of(folder, num_workers=min(2, num_workers), num_steps=NUM_STEPS), SlowShare)


RUNS: dict[str, Callable[[Path, int], TrainingPlan]] = {"slices": slices, "ranks": ranks}


def chaos_plan(run: str, folder: Path, num_workers: int = 3) -> TrainingPlan:
    """A run begun or gone on with in `folder`; it begins with what there is and waits long on a busy machine."""
    plan = RUNS[run](folder, num_workers)
    return replace(plan, min_workers=1, start_timeout_s=300.0, resume=bool(paths(folder)))


def undisturbed(run: str, folder: Path) -> str:
    """sha256 of the parameters of a run in this process."""
    plan = replace(RUNS[run](folder, 0), num_workers=0)
    return run_meta_training(plan, lambda record: None, lambda: False).params_sha256
