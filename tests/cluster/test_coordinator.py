"""The coordinator without Ray: an actor's class is a class, and its event loop any."""

import asyncio
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fake_learner import build_gradient, training_plan
from ray.exceptions import ActorUnavailableError

from cluster import coordinator as coordinators
from cluster.aggregation import AggregationPlan
from cluster.checkpoint import Checkpoint, load_newest, save
from cluster.coordinator import Assignment, Coordinator
from cluster.plan import TrainingPlan
from cluster.policies import Asynchronous, Stale
from cluster.server_state import ServerState
from cluster.shards import ShardReport
from cluster.slice_state import SliceState
from cluster.update import Made, Update
from cluster.vectors import InServer

COMPUTE = build_gradient()


def new_coordinator(plan: TrainingPlan) -> Coordinator:
    save(Checkpoint(0, plan.parameters, plan.parameter_shapes, plan.optimizer.name, {}), plan.checkpoint_dir, 3)
    return Coordinator(plan.server, partial(InServer, plan.server))


async def settle() -> None:
    """Let all that can run do so until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def reports_of(work: Assignment) -> list[ShardReport]:
    assert isinstance(work.parameters, np.ndarray)
    return [COMPUTE(work.parameters, shard) for shard in work.shards]


async def step(coordinator: Coordinator, work: Assignment) -> Assignment:
    """Report the first shard of an assignment that came with parameters, and ask for the next."""
    return await coordinator.exchange("a", work.base, reports_of(work)[:1])


def test_a_dead_workers_question_ends_whether_it_comes_before_its_death_is_known_or_after(tmp_path: Path):
    async def run() -> None:
        plan = replace(training_plan(tmp_path, num_workers=2), num_shards=1)
        coordinator = new_coordinator(plan)
        assert (await coordinator.exchange("busy", 0, ())).shards
        waiting = asyncio.ensure_future(coordinator.exchange("dead", 0, ()))
        await settle()
        assert not waiting.done()
        await coordinator.release("dead")
        for question in (waiting, coordinator.exchange("dead", 0, ())):
            assert (await asyncio.wait_for(question, 60)).shards == ()
        assert not (await asyncio.wait_for(coordinator.finish(0), 60))[0]

    asyncio.run(run())


def test_shards_that_were_refused_go_to_whoever_is_idle(tmp_path: Path):
    async def run() -> None:
        plan = replace(training_plan(tmp_path, num_workers=2), num_shards=8, num_steps=3)
        coordinator = new_coordinator(replace(plan, aggregation=AggregationPlan(Stale(1), straggler_factor=None)))
        late = await coordinator.exchange("slow", 0, ())
        work, parameters = await coordinator.exchange("fast", 0, ()), plan.parameters
        while True:
            parameters = parameters if work.parameters is None else work.parameters
            asked = coordinator.exchange("fast", work.base, reports_of(work._replace(parameters=parameters)))
            question = asyncio.ensure_future(asked)
            await settle()
            if not question.done():
                break
            work = question.result()
        again = await coordinator.exchange("slow", late.base, reports_of(late))
        others = await asyncio.wait_for(question, 60)
        assert [*again.shards, *others.shards] == list(late.shards) and len(late.shards) == 2
        await coordinator.finish(3)

    asyncio.run(run())


def test_who_was_idle_before_it_was_known_how_long_a_shard_takes_ends_a_stall_too(tmp_path: Path):
    async def run() -> None:
        coordinator = new_coordinator(replace(training_plan(tmp_path, num_workers=3), num_shards=6))
        stalled, other, work = [await coordinator.exchange(name, 0, ()) for name in ("stalled", "other", "idle")]
        reports = reports_of(work)
        while (shard := work.shards[0]).index < 5:
            work = await coordinator.exchange("idle", 0, [reports[0]._replace(shard=shard)])
        idle = asyncio.ensure_future(coordinator.exchange("idle", 0, [reports[0]._replace(shard=shard)]))
        await settle()
        assert not idle.done()
        first = await asyncio.wait_for(coordinator.exchange("other", 0, reports_of(other)), 60)
        assert first.shards == (await asyncio.wait_for(idle, 60)).shards == stalled.shards

    asyncio.run(run())


def test_what_an_asynchronous_run_ends_with_is_on_disk(tmp_path: Path):
    async def run() -> None:
        plan = training_plan(tmp_path, num_workers=1, checkpoint_every=1)
        coordinator = new_coordinator(replace(plan, aggregation=AggregationPlan(Asynchronous())))
        work = await coordinator.exchange("a", 0, ())
        for _ in range(plan.num_shards + 2):
            work = await step(coordinator, work)
        _, last = await coordinator.finish(0)
        assert last.version == 1 and work.base == 6
        assert load_newest(tmp_path).parameters.tobytes() == last.parameters.tobytes()

    asyncio.run(run())


def test_slow_storage_holds_one_copy_and_workers_are_answered_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gate, written, copies = threading.Event(), [], []

    def save_late(checkpoint: Checkpoint, folder: str, keep: int) -> str:
        gate.wait(60)
        written.append(checkpoint.version)
        return save(checkpoint, folder, keep)

    def keep_count(state: ServerState, vectors: SliceState) -> Checkpoint:
        copies.append(state.version)
        return make_checkpoint(state, vectors)

    make_checkpoint = ServerState.checkpoint
    monkeypatch.setattr(ServerState, "checkpoint", keep_count)
    monkeypatch.setattr(coordinators, "save", save_late)

    async def run() -> None:
        plan = replace(training_plan(tmp_path, num_workers=2, checkpoint_every=1), num_shards=1)
        coordinator = new_coordinator(plan)
        work = await step(coordinator, await coordinator.exchange("a", 0, ()))
        try:
            waiting = asyncio.ensure_future(step(coordinator, work))
            await settle()
            assert copies == [1] and written == []
            (ahead,) = (await asyncio.wait_for(coordinator.exchange("b", 0, ()), 60)).shards
            assert ahead.version == 2
        finally:
            gate.set()
        await coordinator.release("b")
        assert (await waiting).shards == (ahead,)
        _, last = await coordinator.finish(0)
        assert written == copies[:2] == [1, 2] and last.version == load_newest(tmp_path).version == 2

    asyncio.run(run())


def test_a_slice_that_does_not_answer_ends_the_generation_for_all_who_ask(tmp_path: Path):
    class OutOfReach(InServer):
        async def make(self, update: Update) -> Made:
            raise ActorUnavailableError("the connection broke", None)

    async def run() -> None:
        plan = replace(training_plan(tmp_path, num_workers=2), num_shards=1)
        save(Checkpoint(0, plan.parameters, plan.parameter_shapes, plan.optimizer.name, {}), plan.checkpoint_dir, 3)
        coordinator = Coordinator(plan.server, partial(OutOfReach, plan.server))
        work = await coordinator.exchange("a", 0, ())
        driver = asyncio.ensure_future(coordinator.progress(0))
        idle = asyncio.ensure_future(coordinator.exchange("b", 0, ()))
        await settle()
        with pytest.raises(ActorUnavailableError):
            await step(coordinator, work)
        assert (await asyncio.wait_for(driver, 60)).is_over and not (await asyncio.wait_for(idle, 60)).shards
        with pytest.raises(ActorUnavailableError):
            await coordinator.finish(0)
        assert load_newest(tmp_path).version == 0

    asyncio.run(run())
