"""From the settings of the runtime to the plans of the optimiser, the server and the groups."""

from collections.abc import Callable
from contextlib import suppress

import yaml

from cluster.aggregation import AggregationPlan
from cluster.group_plan import GroupPlan
from cluster.optimizer_plan import OptimizerPlan, Option
from cluster.policies import SYNCHRONOUS, Asynchronous, Stale
from cluster.shards import ComputesMetaGradient
from jobs.errors import UsageError
from jobs.settings import runtime as r
from mcb.learner import ModeConditionalBayesianMAML
from mcb.sharing import Sharing


def optimizer_plan(optimizer: r.Optimizer) -> OptimizerPlan:
    """The meta-update; raises `UsageError` for one beta alone and for options that are no numbers."""
    return OptimizerPlan(
        name=optimizer.name,
        learning_rate=optimizer.learning_rate,
        schedule=optimizer.schedule,
        warmup=optimizer.warmup,
        clip_norm=optimizer.clip_norm,
        max_refused_steps=optimizer.max_refused_steps,
        weight_decay=optimizer.weight_decay,
        momentum=optimizer.momentum,
        betas=_betas(optimizer.betas),
        epsilon=optimizer.epsilon,
        further=tuple(_option(word) for word in optimizer.options),
        average_decay=optimizer.average_decay,
    )


def aggregation_plan(cluster: r.Cluster) -> AggregationPlan:
    """The server's policy and what it travels by."""
    match cluster.policy:
        case r.SyncPolicy():
            policy = SYNCHRONOUS
        case r.StalePolicy(bound=bound):
            policy = Stale(bound)
        case r.AsyncPolicy():
            policy = Asynchronous()
    return AggregationPlan(
        policy, cluster.num_slices, cluster.gradient_wire, cluster.parameter_wire, cluster.straggler_factor
    )


def group_plan(
    cluster: r.Cluster, learner: ModeConditionalBayesianMAML, build_share: Callable[[Sharing], ComputesMetaGradient]
) -> GroupPlan | None:
    """The ranks of each worker; raises `UsageError` for more than there are particles and modes."""
    if cluster.ranks_per_worker == 1:
        return None
    num_particles, num_modes = learner.inference.num_particles, learner.modes.num_modes
    if cluster.ranks_per_worker > max(num_particles, num_modes):
        raise UsageError(
            f"ranks_per_worker={cluster.ranks_per_worker} must lie in 1..{max(num_particles, num_modes)}: a worker's "
            f"ranks share out its particles, here {num_particles}, or its modes, here {num_modes}"
        )
    return GroupPlan(cluster.ranks_per_worker, build_share, cluster.rank_timeout_s)


def _option(word: str) -> tuple[str, Option]:
    name, _, value = word.partition("=")
    with suppress(yaml.YAMLError, ValueError):
        match yaml.safe_load(value):
            case bool() | int() | float() as number if name.strip():
                return name.strip(), number
            case str() as text if name.strip():  # 1e-3 is text to YAML
                return name.strip(), float(text)
    raise UsageError(f"optimizer.options={word!r} must be NAME=VALUE with a number, true or false, as in nesterov=true")


def _betas(betas: tuple[float, ...]) -> tuple[float, float] | None:
    match betas:
        case ():
            return None
        case (first, second):
            return first, second
    raise UsageError(f"optimizer.betas={betas} must be two numbers, or none for torch's own")
