"""What a search is refused for before anything is written, and what its trials ask of the cluster."""

import os
from collections.abc import Sequence
from pathlib import Path

import ray
import torch

from cluster.embedded import ray_cluster
from cluster.errors import ClusterError
from cluster.placement import bundles, in_words, num_runs_at_once, num_units, total
from cluster.plan import TrainingPlan
from jobs.building.objects import build_plan
from jobs.errors import UsageError
from jobs.search.plan import LEARNING_RATE
from jobs.search.proposals import Proposals
from jobs.search.search import Search
from jobs.search.space_ends import asked, ends
from jobs.search.space_points import Point, point_of, settings_at
from jobs.search.spaces import Space

_NUM_TRIED = 8  # points between the ends that are checked before anything starts
_SAME = ("cluster.", "tasks.", "evaluation.", "train.num_steps", "train.checkpoint_", "seed")


def required(search: Search, space: Space) -> TrainingPlan:
    """What a trial asks of the cluster; raises `UsageError` if points of the space do not fit the settings."""
    settings = search.settings
    if settings.cluster.strategy != "server":
        raise UsageError(f"cluster.strategy={settings.cluster.strategy} cannot be searched: trials need the server's")
    if settings.train.checkpoint_dir is not None:
        raise UsageError("train.checkpoint_dir cannot be set: each trial's checkpoints lie below --out")
    propose = Proposals(space, "random", settings.seed, _NUM_TRIED, point_of(space, settings))
    points = [propose(number, ()) for number in range(_NUM_TRIED)] + ends(space)
    _require_comparable(points)
    if search.scheduler == "pbt":
        _require_learning_rate(space, points)
    plans = [build_plan(settings_at(settings, point), "", "", resume=False) for point in points]
    return max(plans, key=lambda plan: (num_units(plan), len(plan.parameters)))


def require_places(run: TrainingPlan, folder: Path) -> None:
    """Raise `ClusterError` if not even one trial fits into the cluster that the search will have."""
    if ray.is_initialized() or "RAY_ADDRESS" in os.environ:
        with ray_cluster(folder, num_cpus(), len(run.parameters)):
            num_at_once(run)
    else:
        _at_once(run, [{"CPU": float(num_cpus()), "GPU": float(torch.cuda.device_count())}], "this machine")


def num_at_once(run: TrainingPlan) -> int:
    """Trials that fit at once into the Ray cluster that is there; raises `ClusterError` if not even one does."""
    return _at_once(run, [node["Resources"] for node in ray.nodes() if node["Alive"]], "the Ray cluster")


def num_cpus() -> int:
    """CPUs of this machine."""
    return os.cpu_count() or 1


def _require_comparable(points: Sequence[Point]) -> None:
    """Refuse a space that asks about, or fixes, what all trials and the runs after them must have in common."""
    for path in sorted({path for point in points for path in point}):
        if path.startswith(_SAME):
            raise UsageError(
                f"the space asks about {path}, which must be the same for all trials or their results cannot be "
                f"compared: leave it out of the space, and set it with --{path.replace('_', '-')}"
            )


def _require_learning_rate(space: Space, points: Sequence[Point]) -> None:
    if not asked(space, LEARNING_RATE).values or not all(LEARNING_RATE in point for point in points):
        raise UsageError(
            f"--scheduler pbt changes {LEARNING_RATE}, which the space does not ask about everywhere: give it a "
            "range or choices there, or name another --scheduler"
        )


def _at_once(run: TrainingPlan, nodes: Sequence[dict[str, float]], where: str) -> int:
    """Trials that fit at once; raises `ClusterError`, with the numbers, if not even one does."""
    num = num_runs_at_once(run, nodes)
    if num == 0:
        wanted = total(bundles(run) * max(1, num_units(run)))
        raise ClusterError(
            f"a trial of {run.num_workers} workers asks for {in_words(wanted)}, but {where} has "
            f"{in_words(total(nodes))}: lower --cluster.num-workers, --cluster.ranks-per-worker, "
            "--cluster.threads-per-worker or --cluster.gpus-per-worker"
        )
    return num
