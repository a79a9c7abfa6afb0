"""Gradients of several updates that wait at once: each is summed in its own, however long the one before takes."""

import asyncio
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from fake_learner import training_plan
from server_bench import COMPUTE, Bench

from cluster import coordinator as coordinators
from cluster.aggregation import AggregationPlan
from cluster.checkpoint import Checkpoint, save
from cluster.coordinator import Coordinator
from cluster.plan import TrainingPlan
from cluster.policies import Asynchronous, ServerPolicy, Stale
from cluster.shards import GradientKey
from cluster.update_queue import UpdateQueue
from cluster.vectors import InServer

POLICIES: list[ServerPolicy] = [Stale(3), Asynchronous()]
WORKERS = "abcdefgh"


def plan_of(policy: ServerPolicy, folder: Path) -> TrainingPlan:
    plan = training_plan(folder, num_workers=len(WORKERS), checkpoint_every=1)
    return replace(plan, aggregation=AggregationPlan(policy), num_shards=2)


def beginning(plan: TrainingPlan) -> Checkpoint:
    return Checkpoint(0, plan.parameters, plan.parameter_shapes, plan.optimizer.name, {})


@pytest.mark.parametrize("is_ordered", [False, True])
def test_the_next_update_is_of_its_own_gradients_alone_and_none_is_lost(is_ordered: bool):
    queue = UpdateQueue(2, is_ordered)
    keys = [GradientKey(0, index, 0) for index in (1, 0, 2, 4, 3)]
    for key in keys:
        queue.put(key)
    in_order = tuple(sorted(keys)) if is_ordered else tuple(keys)
    assert (len(queue), queue.num_early, queue.num_updates) == (5, 0, 2)
    assert tuple(queue.next) == in_order[:2] == queue.take()
    assert queue.take() == in_order[2:4] and queue.num_updates == 0 and tuple(queue.next) == in_order[4:]


def test_an_early_gradient_waits_for_those_in_front_of_it():
    queue = UpdateQueue(3, is_ordered=True)
    for index in (2, 1):
        queue.put(GradientKey(0, index, 0))
    assert (len(queue), queue.num_early, queue.next) == (0, 2, [])
    queue.put(GradientKey(0, 0, 0))
    assert (len(queue), queue.num_early, queue.num_updates) == (3, 0, 1)


async def parameters_after(policy: ServerPolicy, num_together: int) -> tuple[bytes, list[tuple[int, ...]]]:
    """Eight gradients at the same parameters, the due updates made after so many; how many each update summed."""
    plan = plan_of(policy, Path("unused"))
    bench, vectors = Bench(plan.server), InServer(plan.server, beginning(plan))
    reports = [(name, bench.work(name)[1][0]) for name in WORKERS]
    summed = []
    for number, (name, report) in enumerate(reports, 1):
        key = bench.state.accept(name, 0, report)
        assert key is not None
        vectors.keep(key, report.gradient, bench.state)
        while number % num_together == 0 and (update := bench.state.next_update()) is not None:
            summed.append(tuple(key.index + 2 * key.version for key in update.keys))
            bench.state.finish_update(await vectors.make(update))
    return (await vectors.state()).parameters.tobytes(), summed


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_gradients_of_later_updates_may_be_here_before_the_next_is_made(policy: ServerPolicy):
    in_time, late = (asyncio.run(parameters_after(policy, num_together)) for num_together in (1, 8))
    assert late == in_time
    assert sum(in_time[1], ()) == tuple(range(8))


async def parameters_behind(gate: threading.Event, plan: TrainingPlan) -> bytes:
    """The same eight gradients through a coordinator that saves nothing before all of them are there."""
    save(beginning(plan), plan.checkpoint_dir, 3)
    coordinator = Coordinator(plan.server, partial(InServer, plan.server))
    questions = []
    for name, work in [(name, await coordinator.exchange(name, 0, ())) for name in WORKERS]:
        report = COMPUTE(plan.parameters, work.shards[0])
        questions.append(asyncio.ensure_future(coordinator.exchange(name, 0, [report])))
        for _ in range(20):
            await asyncio.sleep(0)
    gate.set()
    await asyncio.wait_for(questions[3], 60)  # it made the second meta-step and waited for the first's checkpoint
    _, last = await coordinator.finish(0)
    await asyncio.gather(*questions)
    assert last.version == 4
    return last.parameters.tobytes()


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_slow_storage_changes_no_bit_of_what_the_same_gradients_make(
    policy: ServerPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gate = threading.Event()

    def save_late(checkpoint: Checkpoint, folder: str, keep: int) -> str:
        gate.wait(60)
        return save(checkpoint, folder, keep)

    monkeypatch.setattr(coordinators, "save", save_late)
    slow = asyncio.run(parameters_behind(gate, plan_of(policy, tmp_path)))
    assert slow == asyncio.run(parameters_after(policy, num_together=1))[0]
