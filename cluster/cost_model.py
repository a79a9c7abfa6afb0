r"""How long a synchronous meta-step takes, for numbers of machines that nobody here has: operational bounds.

A meta-step of W workers is W pushes of a gradient of g bytes and W pulls of parameters of g bytes. In it, the server
(or, with S > 1 slices, each slice and the server) is busy for a time that grows with W, and nothing can be faster than
the busiest part (Denning & Buzen 1978, "The operational analysis of queueing network models", section 4):

$$T = C + \ell + s\,\max(\text{server}, \text{slice}, \text{network}, \text{cores}) + \text{worker},$$

computation $C$ (`Job`), latency $\ell$, and a stretch $s \ge 1$ for what bounds leave out. `cluster.cost_fit` finds the
constants from measurements.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cluster.wire import DIRECT_BYTES

Part = Literal["server", "slice", "network", "cores"]


@dataclass(frozen=True)
class Costs:
    """Seconds of one processor core: of a message (`call`), of a byte in it, and of a byte of the optimiser's step.

    Whoever takes gradients in (the server, or a slice) pays `direct` or `shared` prices, by size. A server with slices
    pays `control_call` for a push and `fanout_call` for each slice of a meta-step. `worker` prices are all that a push
    costs elsewhere: the worker itself and Ray around it. `latency` is that of a meta-step which nothing delays.
    """

    direct_call: float
    direct_byte: float
    shared_call: float
    shared_byte: float
    update_byte: float
    control_call: float
    fanout_call: float
    worker_call: float
    worker_direct_byte: float
    worker_shared_byte: float
    latency: float
    stretch: float


class Load(NamedTuple):
    """The traffic of a meta-step: each of `num_workers` sends and fetches `num_bytes`, cut into `num_slices`."""

    num_workers: int
    num_bytes: float
    num_slices: int = 1

    @property
    def part_bytes(self) -> float:
        """Bytes of one message."""
        return self.num_bytes / self.num_slices

    @property
    def messages(self) -> int:
        """Messages that a worker sends for a push."""
        return 1 if self.num_slices == 1 else 1 + self.num_slices


class Machines(NamedTuple):
    """What runs where: everything on one machine of `shared_cores`, or (None) every part on cores of its own.

    `bytes_per_s` is the network bandwidth in and out of every machine: each worker, the server and each slice are on
    different ones.
    """

    shared_cores: int | None = None
    bytes_per_s: float = math.inf


class Busy(NamedTuple):
    """For how many seconds of a meta-step's exchange each part is busy; `network` is the busiest machine's link."""

    server: float
    slice: float
    network: float
    cores: float
    worker: float

    @property
    def bottleneck(self) -> Part:
        """The part that the others wait for."""
        times: dict[Part, float] = {
            "server": self.server,
            "slice": self.slice,
            "network": self.network,
            "cores": self.cores,
        }
        return max(times, key=times.__getitem__)


def intake(costs: Costs, load: Load) -> float:
    """Seconds in which whoever takes gradients in handles a meta-step: all pushes, pulls and the optimiser's step."""
    size = load.part_bytes
    is_direct = size <= DIRECT_BYTES
    call, byte = (costs.direct_call, costs.direct_byte) if is_direct else (costs.shared_call, costs.shared_byte)
    return load.num_workers * (call + byte * size) + costs.update_byte * size


def busy(costs: Costs, load: Load, machines: Machines) -> Busy:
    """How busy a meta-step's exchange makes each part."""
    taking = intake(costs, load)
    is_sliced = load.num_slices > 1
    controlling = load.num_workers * costs.control_call + load.num_slices * costs.fanout_call
    server, one_slice = (controlling, taking) if is_sliced else (taking, 0.0)
    worker_byte = costs.worker_direct_byte if load.part_bytes <= DIRECT_BYTES else costs.worker_shared_byte
    worker = load.messages * costs.worker_call + worker_byte * load.num_bytes
    most_bytes = max(load.num_workers * load.part_bytes, load.num_bytes)  # of a server or slice, of a worker
    network = 2 * most_bytes / machines.bytes_per_s  # parameters go out only when all gradients have come in
    total = server + load.num_slices * one_slice + load.num_workers * worker
    if machines.shared_cores is None:
        return Busy(server, one_slice, network, 0.0, worker)
    return Busy(server, one_slice, network, total / machines.shared_cores, 0.0)


def exchange_s(costs: Costs, load: Load, machines: Machines) -> float:
    """Seconds of a meta-step beside the computation."""
    parts = busy(costs, load, machines)
    return costs.latency + costs.stretch * max(parts[:4]) + parts.worker


class Job(NamedTuple):
    """The computation of a meta-step: `meta_batch` tasks of `task_s` seconds each, in `num_shards`.

    None shards: as many as there are workers, whatever their number.
    """

    meta_batch: int
    task_s: float
    num_shards: int | None = None

    def keeps_busy(self, num_workers: int) -> int:
        """How many of the workers have something to compute."""
        return num_workers if self.num_shards is None else min(num_workers, self.num_shards)

    def compute_s(self, num_workers: int) -> float:
        """Seconds until the worker with the most shards has computed them."""
        num_shards = self.num_shards or num_workers
        return math.ceil(num_shards / num_workers) * math.ceil(self.meta_batch / num_shards) * self.task_s


def step_s(costs: Costs, job: Job, load: Load, machines: Machines) -> float:
    """Seconds of a whole meta-step."""
    return job.compute_s(load.num_workers) + exchange_s(costs, load, machines)


def saturation(costs: Costs, job: Job, load: Load, machines: Machines) -> int:
    """The number of workers beyond which a meta-step gets slower: there the exchange outgrows what workers save.

    At most one per task, and at most 4096.
    """
    numbers = range(1, min(job.meta_batch, 4096) + 1)
    return min(numbers, key=lambda number: step_s(costs, job, load._replace(num_workers=number), machines))


def advice(costs: Costs, job: Job, load: Load, machines: Machines) -> str:
    """The setting to change first where a meta-step is to be faster."""
    parts = busy(costs, load, machines)
    if job.compute_s(load.num_workers) >= exchange_s(costs, load, machines):
        return "cluster.num_workers" if job.keeps_busy(load.num_workers + 1) > load.num_workers else "train.num_shards"
    match parts.bottleneck:
        case "network":
            return "cluster.num_slices, on more machines; then the wire types"
        case "cores":
            return "another machine"
        case "slice":
            return "cluster.num_slices"
        case "server":
            is_calls = load.num_slices > 1 or intake(costs, load._replace(num_bytes=0.0)) > parts.server / 2
            return "train.meta_batch" if is_calls else "cluster.num_slices"
