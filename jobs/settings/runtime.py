"""The settings of the runtime: the meta-update, the server's policy, the machines."""

from typing import Annotated, Literal

from pydantic import Field

from cluster.aggregation import WireType
from jobs.settings.section import HowToChoose, Section, count, positive

PolicyKind = Field(description=f"sync, stale or async{HowToChoose}")
Beta = Annotated[float, Field(ge=0, lt=1, description="decay of a moment, 0..1")]


class Optimizer(Section):
    """The meta-update."""

    name: Annotated[str, Field(description="a class of torch.optim, in any case, or soap")] = "adam"
    learning_rate: Annotated[float, positive(1e3, "peak learning rate")] = 3e-3
    schedule: Annotated[Literal["cosine", "constant"], Field(description="after the warm-up")] = "cosine"
    warmup: Annotated[int, count(0, 10**9, "meta-steps of linear warm-up")] = 0
    clip_norm: Annotated[
        float | None, Field(gt=0, description="bound of the meta-gradient's norm, above 0, or None")
    ] = 10.0
    weight_decay: Annotated[float | None, Field(ge=0, le=1e3, description="None: as torch has it")] = None
    momentum: Annotated[float | None, Field(ge=0, le=1, description="None: as torch has it")] = None
    betas: Annotated[tuple[Beta, ...], Field(max_length=2, description="both or none: as torch has them")] = ()
    epsilon: Annotated[float | None, Field(gt=0, le=1e3, description="None: as torch has it")] = None
    options: Annotated[tuple[str, ...], Field(description="further ones of its own: nesterov=true,dampening=0.1")] = ()
    average_decay: Annotated[
        float | None, Field(gt=0, lt=1, description="of an average of the parameters for evaluation; None: no average")
    ] = None
    max_refused_steps: Annotated[int, count(0, 10**9, "non-finite meta-gradients tolerated in a run")] = 10


class SyncPolicy(Section):
    """A meta-step waits for all its shards: exact, and the same bits on any number of workers."""

    kind: Annotated[Literal["sync"], PolicyKind] = "sync"


class StalePolicy(Section):
    """A meta-step takes the first num_shards gradients that are not too old; workers go ahead meanwhile."""

    kind: Annotated[Literal["stale"], PolicyKind] = "stale"
    bound: Annotated[int, count(0, 10**6, "meta-steps that a gradient may be behind")] = 1


class AsyncPolicy(Section):
    """Every shard's gradient is an update of its own, however old."""

    kind: Annotated[Literal["async"], PolicyKind] = "async"


Policy = Annotated[SyncPolicy | StalePolicy | AsyncPolicy, Field(discriminator="kind")]


class Cluster(Section):
    """The machines; of these, policy and wires change the result, threads, ranks and GPUs its last bits.

    Under `collective`, the number of workers changes the last bits of sums.
    """

    strategy: Annotated[
        Literal["server", "collective"],
        Field(description="who sums gradients: a parameter server, or the workers by all-reduce under Ray Train"),
    ] = "server"
    num_workers: Annotated[int, count(0, 4096, "Ray workers; 0 trains in this process without Ray")] = 2
    threads_per_worker: Annotated[int, count(1, 1024, "torch threads of a worker, of each of its ranks")] = 1
    gpus_per_worker: Annotated[
        float, Field(ge=0, le=1, description="of a GPU, for a worker or each of its ranks: 0, a fraction, or 1")
    ] = 0.0
    ranks_per_worker: Annotated[
        int, count(1, 1024, "processes that share a worker's shards: particles, or modes; part of the last bits")
    ] = 1
    rank_timeout_s: Annotated[
        float, positive(1e6, "seconds that a rank waits for another before both are replaced")
    ] = 300.0
    min_workers: Annotated[
        int | None, Field(ge=1, le=4096, description="fewest workers to begin and go on with; None: all, then any")
    ] = None
    start_timeout_s: Annotated[float, positive(86_400, "seconds to find a place for the workers at the start")] = 8.0
    regrow_timeout_s: Annotated[
        float, positive(86_400, "seconds that a begun run with too few workers waits before it saves and ends")
    ] = 600.0
    policy: Policy = SyncPolicy()
    num_slices: Annotated[int, count(1, 1024, "actors that hold the parameters; 1: the server itself")] = 1
    gradient_wire: Annotated[WireType, Field(description="what gradients travel as; sums are float32")] = "float32"
    parameter_wire: Annotated[WireType, Field(description="what parameters travel as")] = "float32"
    straggler_factor: Annotated[
        float | None,
        Field(ge=1, le=1e6, description="median shard times after which an idle worker takes over; None: never"),
    ] = 4.0
