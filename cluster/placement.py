"""What a run asks of the machines, beside what they have, in words."""

from collections.abc import Mapping, Sequence

from cluster.plan import TrainingPlan

Resources = Mapping[str, float]


def num_units(plan: TrainingPlan) -> int:
    """Units of a run at their most: more than can have a shard at once would have nothing to do."""
    return plan.max_workers


def bundles(plan: TrainingPlan) -> list[dict[str, float]]:
    """Ray resources of each actor of one unit."""
    actor = {"CPU": float(plan.threads_per_worker)}
    if plan.gpus_per_worker:
        actor["GPU"] = plan.gpus_per_worker
    return [actor] * plan.ranks_per_worker


def fits(plan: TrainingPlan, specs: Sequence[Resources]) -> bool:
    """Whether a placement group with these bundles was made for the run: they are just those of its units.

    Any other surrounds the run by chance, as one does that a job was started in.
    """
    mine = bundles(plan) * num_units(plan)
    return bool(mine) and [{name: n for name, n in spec.items() if n} for spec in specs] == mine


def total(parts: Sequence[Resources]) -> dict[str, float]:
    """The sum by resource.

    >>> total([{"CPU": 2.0}, {"CPU": 1.0, "GPU": 0.5}])
    {'CPU': 3.0, 'GPU': 0.5}
    """
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def in_words(resources: Resources) -> str:
    """CPUs and GPUs as a reader counts them.

    >>> in_words({"CPU": 12.0, "GPU": 0.5}), in_words({"CPU": 1.0}), in_words({})
    ('12 CPUs and 0.5 GPUs', '1 CPU', 'nothing')
    """
    counts = [(resources.get(name, 0.0), name) for name in ("CPU", "GPU")]
    return " and ".join(f"{n:g} {name}{'' if n == 1 else 's'}" for n, name in counts if n) or "nothing"


def num_places(nodes: Sequence[Resources], unit: Resources) -> int:
    """How many units of one actor the nodes could hold if nothing else ran there.

    >>> num_places([{"CPU": 5.0}, {"CPU": 3.0, "GPU": 1.0}], {"CPU": 2.0}), num_places([{"CPU": 5.0}], {"GPU": 0.5})
    (3, 0)
    """
    return sum(int(min(node.get(name, 0.0) // asked for name, asked in unit.items())) for node in nodes)


def num_runs_at_once(plan: TrainingPlan, nodes: Sequence[Resources]) -> int:
    """How many runs like this one the nodes could hold if nothing else ran there; a run in this process counts too."""
    if plan.num_workers == 0:
        return num_places(nodes, bundles(plan)[0])
    if plan.ranks_per_worker > 1:
        return num_places(nodes, total(bundles(plan) * num_units(plan)))
    return num_places(nodes, bundles(plan)[0]) // num_units(plan)


def shortage(
    plan: TrainingPlan,
    num_placed: int,
    num_needed: int,
    nodes: Sequence[Resources],
    free: Resources,
    has_begun: bool = False,
) -> str:
    """What is asked, what there is, and what can be done about it; `nodes` are the resources of each living node."""
    units = num_units(plan)
    ranks = "" if plan.group is None else f" of {plan.group.num_ranks} ranks, each worker on one node,"
    gpus = f" and gpus_per_worker={plan.gpus_per_worker:g}" if plan.gpus_per_worker else ""
    asked = total(bundles(plan) * units)
    enough = "" if num_needed == units else f" ({num_needed} of them would do)"
    where = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes, {_largest(nodes)} on the largest"
    who, ask, place = ("1 worker", "asks", "no place for it")
    if units > 1:
        who, ask, place = (f"{units} workers", "ask", f"a place for {num_placed} of the workers")
    return (
        f"{who}{ranks} with threads_per_worker={plan.threads_per_worker}{gpus} {ask} for "
        f"{in_words(asked)}{enough}, but the Ray cluster has {in_words(total(nodes))} on {where}, with "
        f"{in_words(free)} free and {place}: {_remedy(plan, num_needed, has_begun)}"
    )


def _remedy(plan: TrainingPlan, num_needed: int, has_begun: bool) -> str:
    """The settings that can be lowered here, or more nodes."""
    can_be_lowered = {
        "num-workers": num_needed > 1,
        "min-workers": num_needed > 1,
        "ranks-per-worker": plan.ranks_per_worker > 1,
        "threads-per-worker": plan.threads_per_worker > 1,
        "gpus-per-worker": plan.gpus_per_worker > 0,
    }
    names = [f"--cluster.{name}" for name, is_able in can_be_lowered.items() if is_able]
    lower = f"lower {' or '.join(names)}, " if names else ""
    timeout = "regrow" if has_begun else "start"
    return f"{lower}add nodes, or raise --cluster.{timeout}-timeout-s if some are on their way"


def _largest(nodes: Sequence[Resources]) -> str:
    return in_words(max(nodes, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)), default={}))
