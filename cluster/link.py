"""A worker's side of the conversation with the server: reports out, parameters and shards in."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import ray
from ray.actor import ActorHandle

from cluster.aggregation import WireType
from cluster.blocks import slice_bounds
from cluster.coordinator import Assignment
from cluster.server import Address
from cluster.shards import GradientKey, Shard, ShardReport
from cluster.vectors import fetch
from cluster.wire import encode


class Work(NamedTuple):
    """Shards to compute at these parameters, which may be a read-only view, under this state if it is a new one."""

    parameters: np.ndarray
    shards: tuple[Shard, ...]
    new_state: np.ndarray | None


class ServerLink:
    """What one worker knows of the server: the parameters that it was given last, and where gradients go.

    `gradient_wire` is what gradients travel as.
    """

    def __init__(self, worker_id: str, address: Address, gradient_wire: WireType) -> None:
        self._worker_id, self._address = worker_id, address
        self._wire: WireType = gradient_wire
        self._base = 0
        self._parameters = np.empty(0, dtype=np.float32)
        self._slices: tuple[ActorHandle, ...] = ()

    def ask(self, reports: Sequence[ShardReport]) -> Work | None:
        """Report what was computed and wait for more work; None when the run is over.

        All reports are one message, which is also the question: one round trip a meta-step where a worker computes it
        alone, two with slices, which have the gradients before the server hears of them. Raises one of
        `cluster.losses` if the server or one of its slices is lost, `Superseded` once others go on without it.
        """
        sent = [report._replace(gradient=encode(report.gradient, self._wire)) for report in reports]
        if self._slices and sent:
            sent = self._push(sent)
        server, generation = self._address
        asked = server.exchange.remote(generation, self._worker_id, self._base, sent)
        assignment = cast(Assignment, ray.get(asked))
        if not assignment.shards:
            return None
        self._base = assignment.base
        if assignment.slices is not None:
            self._slices = assignment.slices
        if assignment.parameters is not None:
            self._parameters = fetch(assignment.parameters)
        return Work(self._parameters, assignment.shards, assignment.new_state)

    def _push(self, reports: Sequence[ShardReport]) -> list[ShardReport]:
        """Give every slice its range of the gradients; returns the reports without them, once all have arrived."""
        bounds = list(pairwise(slice_bounds(len(self._parameters), len(self._slices))))
        pushes = [
            one.push.remote(
                self._address.generation,
                GradientKey(report.shard.version, report.shard.index, self._base),
                report.gradient[start:stop],
            )
            for report in reports
            for one, (start, stop) in zip(self._slices, bounds, strict=True)
        ]
        ray.get(pushes)
        return [report._replace(gradient=report.gradient[:0]) for report in reports]
