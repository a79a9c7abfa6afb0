"""A group's ranks as threads of this process, with the bits that the ranks' processes would give."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError

import numpy as np
import torch
from torch import Tensor

from cluster.group_plan import GroupPlan, mean_over_ranks
from cluster.shards import Shard, ShardReport, adopt
from mcb.sharing import SharedByRanks


class Exchange:
    """An all-to-all between `size` threads through the memory that they share."""

    def __init__(self, size: int) -> None:
        self._barrier = Barrier(size)
        self._sent: list[tuple[Tensor, ...]] = [()] * size

    def rank(self, rank: int) -> SharedByRanks:
        """The sharing as one of the threads uses it; it raises BrokenBarrierError once the exchange is broken."""

        def all_to_all(rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
            self._sent[rank] = rows.split(list(sent))
            self._barrier.wait()
            output = torch.cat([pieces[rank] for pieces in self._sent])
            self._barrier.wait()
            return output

        return SharedByRanks(rank, len(self._sent), all_to_all)

    def abort(self) -> None:
        """Let nobody wait any more, now and later."""
        self._barrier.abort()


class LocalGroup:
    """The computation of a shard by a whole group of threads, each with `num_threads` torch threads of its own."""

    def __init__(self, plan: GroupPlan, num_threads: int) -> None:
        self._exchange = Exchange(plan.num_ranks)
        self._computes = [plan.build_share(self._exchange.rank(rank)) for rank in range(plan.num_ranks)]
        self._pool = ThreadPoolExecutor(plan.num_ranks, initializer=torch.set_num_threads, initargs=(num_threads,))

    def __call__(self, parameters: np.ndarray, shard: Shard) -> ShardReport:
        """The report of `shard`; raises what a rank's computation raises."""

        def share(rank: int) -> ShardReport | Exception:
            try:
                return self._computes[rank](parameters, shard)
            except Exception as error:
                self._exchange.abort()
                return error

        outcomes = list(self._pool.map(share, range(len(self._computes))))
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if errors:  # those that waited for the one that failed have nothing to say
            raise next((error for error in errors if not isinstance(error, BrokenBarrierError)), errors[0])
        reports = [outcome for outcome in outcomes if isinstance(outcome, ShardReport)]
        return reports[0]._replace(gradient=mean_over_ranks([report.gradient for report in reports]))

    def adopt(self, state: np.ndarray) -> None:
        """Have all ranks compute under `state` from here on; raises TypeError for a learner without one."""
        for compute in self._computes:
            adopt(compute, state)
