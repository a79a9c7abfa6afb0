"""The server's shell without Ray: an actor's class is a class, and its event loop any."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_learner import build_gradient, training_plan

from cluster import server as servers
from cluster.aggregation import AggregationPlan
from cluster.checkpoint import Checkpoint, load_newest, save
from cluster.code_version import code_version
from cluster.plan import TrainingPlan
from cluster.policies import Asynchronous
from cluster.server import Assignment, Server
from cluster.server_state import ServerState
from cluster.slice_state import SliceState

COMPUTE = build_gradient()


def new_server(plan: TrainingPlan) -> Server:
    save(Checkpoint(0, plan.parameters, plan.parameter_shapes, plan.optimizer.name, {}), plan.checkpoint_dir, 3)
    return Server(code_version(), plan.server)


async def settle() -> None:
    """Let all that can run do so until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def step(server: Server, work: Assignment) -> Assignment:
    """Report the first shard of an assignment that came with parameters, and ask for the next."""
    assert isinstance(work.parameters, np.ndarray)
    return await server.exchange("a", work.base, [COMPUTE(work.parameters, work.shards[0])])


def test_a_dead_workers_question_ends_whether_it_comes_before_its_death_is_known_or_after(tmp_path: Path):
    async def run() -> None:
        plan = replace(training_plan(tmp_path, num_workers=2), num_shards=1)
        server = new_server(plan)
        assert (await server.exchange("busy", 0, ())).shards
        waiting = asyncio.ensure_future(server.exchange("dead", 0, ()))
        await settle()
        assert not waiting.done()
        await server.release("dead")
        for question in (waiting, server.exchange("dead", 0, ())):
            assert (await asyncio.wait_for(question, 60)).shards == ()
        assert not (await asyncio.wait_for(server.finish(0), 60))[0]

    asyncio.run(run())


def test_what_an_asynchronous_run_ends_with_is_on_disk(tmp_path: Path):
    async def run() -> None:
        plan = training_plan(tmp_path, num_workers=1, checkpoint_every=1)
        server = new_server(replace(plan, aggregation=AggregationPlan(Asynchronous())))
        work = await server.exchange("a", 0, ())
        for _ in range(plan.num_shards + 2):
            work = await step(server, work)
        _, last = await server.finish(0)
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
    monkeypatch.setattr(servers, "save", save_late)

    async def run() -> None:
        plan = replace(training_plan(tmp_path, num_workers=2, checkpoint_every=1), num_shards=1)
        server = new_server(plan)
        work = await step(server, await server.exchange("a", 0, ()))
        try:
            waiting = asyncio.ensure_future(step(server, work))
            await settle()
            assert copies == [1] and written == []
            (ahead,) = (await asyncio.wait_for(server.exchange("b", 0, ()), 60)).shards
            assert ahead.version == 2
        finally:
            gate.set()
        await server.release("b")
        assert (await waiting).shards == (ahead,)
        _, last = await server.finish(0)
        assert written == copies[:2] == [1, 2] and last.version == load_newest(tmp_path).version == 2

    asyncio.run(run())
