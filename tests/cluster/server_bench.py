"""A parameter server without its actor, driven by hand: the state, the vectors, and a clock that the test moves."""

from pathlib import Path

from fake_learner import build_gradient, training_plan

from cluster.checkpoint import Checkpoint
from cluster.parameter_slice import ParameterSlice
from cluster.plan import ServerPlan, StepRecord
from cluster.server_state import ServerState
from cluster.shards import GradientKey, ShardReport
from cluster.slice_state import SliceState

PLAN = training_plan(Path("unused"), num_workers=2).server
COMPUTE = build_gradient()


class Bench:
    """A server; `counted` are the gradients that took part in its updates, in their order."""

    def __init__(self, plan: ServerPlan = PLAN, start: Checkpoint | None = None) -> None:
        self.counted: list[GradientKey] = []
        if start is None:
            start = Checkpoint(0, training_plan(Path("unused")).parameters, plan.parameter_shapes, "adam", {})
        self.now = 0.0
        self.state = ServerState(plan, start, clock=lambda: self.now)
        vectors = SliceState(start.parameters, start.optimizer_state, start.average)
        self.whole = ParameterSlice(plan.optimizer, plan.num_steps, plan.aggregation.parameter_wire, vectors)

    @property
    def parameters(self) -> bytes:
        return self.whole.parameters.tobytes()

    def work(self, worker_id: str) -> tuple[int, list[ShardReport]]:
        """What a worker would report of its next assignment, and the updates that its parameters saw."""
        self.state.take_back(worker_id)
        shards = self.state.assign(worker_id)
        return self.state.num_updates, [COMPUTE(self.whole.parameters, shard) for shard in shards]

    def push(self, worker_id: str, base: int, report: ShardReport) -> StepRecord | None:
        key = self.state.accept(worker_id, base, report)
        if key is not None:
            self.whole.push(key, report.gradient)
        update = self.state.next_update()
        if update is None:
            return None
        self.counted += update.keys
        return self.state.finish_update(self.whole.make(update))

    def step(self, worker_id: str = "a") -> StepRecord:
        """A whole meta-step by one worker."""
        while True:
            base, reports = self.work(worker_id)
            for report in reports:
                record = self.push(worker_id, base, report)
                if record is not None:
                    return record

    def checkpoint(self) -> Checkpoint:
        return self.state.checkpoint(self.whole.state())
