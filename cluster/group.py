"""A group as its ranks' processes see it: how they meet, what the leader tells, and how gradients come together.

All ranks are on one machine. Rank 0 leads: it alone talks with the server, and passes every shard on to the others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store, TCPStore  # torch.distributed names them too, but not for type checkers

from cluster.errors import GroupBroken
from cluster.group_plan import mean_over_ranks
from cluster.shards import ComputesMetaGradient, Shard, ShardReport, adopt
from mcb.sharing import SharedByRanks

_HOST = "127.0.0.1"  # a group never leaves its machine, nor does anything that listens for it
_NO_SHARD = Shard(*(-1 for _ in Shard._fields))
_STATE = Shard(*(-2 for _ in Shard._fields))  # what comes with it is a state
_FOR_EVER = timedelta(days=365)  # a leader may wait long for a shard; if it dies, its connections close at once


def listen(timeout_s: float) -> TCPStore:
    """Where the other ranks meet rank 0, at a free `port` of this machine."""
    return TCPStore(_HOST, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))


def connect(port: int, timeout_s: float) -> TCPStore:
    """The store of rank 0; raises `GroupBroken` if there is none."""
    with _broken(f"rank 0 does not answer at port {port}"):
        return TCPStore(_HOST, port, is_master=False, timeout=timedelta(seconds=timeout_s))


class Group:
    """One rank's end of torch's process group; what the leader tells goes over connections of its own."""

    def __init__(self, rank: int, num_ranks: int, nccl: bool) -> None:
        self.sharing = SharedByRanks(rank, num_ranks, self._all_to_all)
        self._nccl = nccl
        with _broken("not every rank came"):
            control = dist.new_group(backend="gloo", timeout=_FOR_EVER)
        assert isinstance(control, dist.ProcessGroup)  # every rank is a member
        self._control: dist.ProcessGroup | None = control

    def close(self) -> None:
        """Close all connections: torch closes them when nobody refers to them any more."""
        self._control = None
        dist.destroy_process_group()

    def tell(self, shard: Shard, parameters: np.ndarray) -> None:
        """As the leader, give the others a shard."""
        with _broken("a rank went away"):
            dist.broadcast(torch.tensor([*shard, len(parameters)]), 0, group=self._control)
            dist.broadcast(torch.from_numpy(np.array(parameters, dtype=np.float32)), 0, group=self._control)

    def tell_state(self, state: np.ndarray) -> None:
        """As the leader, give the others the state of the shards that come after."""
        self.tell(_STATE, state)

    def dismiss(self) -> None:
        """As the leader, tell the others that there is nothing more to do."""
        with _broken("a rank went away"):
            dist.broadcast(torch.tensor([*_NO_SHARD, 0]), 0, group=self._control)

    def hear(self) -> tuple[Shard | None, np.ndarray] | None:
        """What the leader tells: a shard and the parameters, or no shard and a state; None: nothing more is to do."""
        with _broken("the leader went away"):
            header = torch.empty(len(Shard._fields) + 1, dtype=torch.long)
            dist.broadcast(header, 0, group=self._control)
            *fields, num_parameters = header.tolist()
            shard = Shard(*fields)
            if shard == _NO_SHARD:
                return None
            parameters = torch.empty(num_parameters)
            dist.broadcast(parameters, 0, group=self._control)
            return None if shard == _STATE else shard, parameters.numpy()

    def add_up(self, gradient: np.ndarray) -> np.ndarray:
        """The mean of all ranks' gradients, in the order of ranks; other ranks than the leader get their own back."""
        mine = torch.from_numpy(gradient)
        all_gradients = [torch.empty_like(mine) for _ in range(self.sharing.size)] if self.sharing.rank == 0 else None
        with _broken("a rank went away"):
            dist.gather(mine, all_gradients)
        return mean_over_ranks([other.numpy() for other in all_gradients]) if all_gradients else gradient

    def _all_to_all(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Over NCCL where every rank has a GPU of its own; else over gloo, which wants tensors in main memory."""
        staged = rows.contiguous() if self._nccl else rows.cpu().contiguous()
        output = staged.new_empty(sum(received), *rows.shape[1:])
        with _broken("a rank went away or took too long"):
            dist.all_to_all_single(output, staged, list(received), list(sent))
        return output.to(rows.device)


@contextmanager
def process_group(rank: int, num_ranks: int, store: Store, timeout_s: float, nccl: bool) -> Iterator[Group]:
    """This process as one rank inside the block; at its end the connections close, so that nobody waits for it.

    Raises `GroupBroken`, here or in any call of the group, if a rank dies or does not answer for `timeout_s`.
    """
    with _broken("not every rank came"):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            store=store,
            rank=rank,
            world_size=num_ranks,
            timeout=timedelta(seconds=timeout_s),
        )
    group = Group(rank, num_ranks, nccl)
    try:
        yield group
    finally:
        group.close()


class LeadsGroup:
    """The computation of a shard by a whole group, in its leader's process."""

    def __init__(self, group: Group, compute: ComputesMetaGradient) -> None:
        self._group, self._compute = group, compute

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        """The leader's report, with the group's gradient; raises `GroupBroken` and what the computation raises."""
        self._group.tell(shard, parameters)
        report = self._compute(parameters, shard)
        return report._replace(gradient=self._group.add_up(report.gradient))

    def adopt(self, state: np.ndarray) -> None:
        """Have the whole group compute under `state` from here on; raises as a call does."""
        self._group.tell_state(state)
        adopt(self._compute, state)


@contextmanager
def leading(group: Group) -> Iterator[None]:
    """Lets the others go at the block's end, and where it raises as well, as far as they can still hear it."""
    try:
        yield
    except GroupBroken:
        raise
    except BaseException:
        with suppress(GroupBroken):
            group.dismiss()
        raise
    group.dismiss()


def follow(group: Group, compute: ComputesMetaGradient) -> None:
    """Compute this rank's share of every shard that the leader passes on, until it dismisses the group."""
    while (told := group.hear()) is not None:
        shard, vector = told
        if shard is None:
            adopt(compute, vector)
        else:
            group.add_up(compute(vector, shard).gradient)


@contextmanager
def _broken(what: str) -> Iterator[None]:
    """Raise torch's errors, which have no class of their own, as `GroupBroken`."""
    try:
        yield
    except RuntimeError as error:
        raise GroupBroken(f"{what} ({str(error).strip().splitlines()[0]})") from error
