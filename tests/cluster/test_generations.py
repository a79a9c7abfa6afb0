"""Generations of the server: what belongs to one that is over counts no more, and who waits for it is told so."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_learner import build_gradient, training_plan

from cluster import coordinator as coordinators
from cluster.checkpoint import Checkpoint, load_newest, save
from cluster.code_version import code_version
from cluster.errors import Superseded
from cluster.plan import TrainingPlan
from cluster.server import Server
from cluster.shards import GradientKey
from cluster.slice_state import SliceState
from cluster.slices import Slice
from cluster.update import Update

COMPUTE = build_gradient()


def plan_of(folder: Path) -> TrainingPlan:
    return replace(training_plan(folder, num_workers=2, checkpoint_every=1), num_shards=1)


def new_server(plan: TrainingPlan) -> Server:
    save(Checkpoint(0, plan.parameters, plan.parameter_shapes, plan.optimizer.name, {}), plan.checkpoint_dir, 3)
    return Server(code_version(), plan.server)


async def settle() -> None:
    """Let all that can run do so until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def first_step(server: Server, plan: TrainingPlan) -> None:
    """The worker `a` makes the first meta-step, of one shard, and has the second's."""
    (shard,) = (await server.exchange(0, "a", 0, ())).shards
    work = await server.exchange(0, "a", 0, [COMPUTE(plan.parameters, shard)])
    assert work.base == work.shards[0].version == 1


def test_who_waits_for_a_generation_that_ends_is_told_so_and_the_next_goes_on_from_the_checkpoint(tmp_path: Path):
    async def run() -> None:
        plan = plan_of(tmp_path)
        server = new_server(plan)
        await first_step(server, plan)
        driver = asyncio.ensure_future(server.progress(1))
        idle = asyncio.ensure_future(server.exchange(0, "b", 0, ()))
        await settle()
        assert not driver.done() and not idle.done()
        assert await server.restart(1, (), seen=1) == []
        for question in (idle, server.exchange(0, "a", 1, ())):
            with pytest.raises(Superseded):
                await asyncio.wait_for(question, 60)
        assert not (await asyncio.wait_for(driver, 60)).records
        again = await server.exchange(1, "c", 0, ())
        assert again.base == again.shards[0].version == load_newest(tmp_path).version == 1

    asyncio.run(run())


def test_a_checkpoint_that_is_being_written_is_gone_on_from_and_meta_steps_not_yet_told_of_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gate = threading.Event()

    def save_late(checkpoint: Checkpoint, folder: str, keep: int) -> str:
        gate.wait(60)
        return save(checkpoint, folder, keep)

    monkeypatch.setattr(coordinators, "save", save_late)

    async def run() -> None:
        plan = plan_of(tmp_path)
        server = new_server(plan)
        await first_step(server, plan)
        restarting = asyncio.ensure_future(server.restart(1, (), seen=0))
        await settle()
        assert not restarting.done() and load_newest(tmp_path).version == 0
        gate.set()
        assert [record.version for record in await asyncio.wait_for(restarting, 60)] == [1]
        assert (await server.exchange(1, "b", 0, ())).base == 1

    asyncio.run(run())


@pytest.mark.ray
def test_a_slice_forgets_the_generation_before_and_takes_nothing_more_from_it(ray_cluster: None, tmp_path: Path):
    plan = training_plan(tmp_path).server
    one = Slice(code_version(), plan.optimizer, plan.num_steps, "float32")
    ones, key = np.ones(64, dtype=np.float32), GradientKey(0, 0, 0)
    update = Update(0, 0, (key,), 1.0, (), 0, 0)
    start = SliceState(np.zeros(64, dtype=np.float32), {}, None)

    async def run() -> None:
        with pytest.raises(Superseded):
            await one.push(0, key, ones)
        await one.restore(0, start)
        await one.push(0, key, ones)
        await one.restore(1, start)
        overtaken = one.restore(0, start)
        for late in (overtaken, one.push(0, key, ones), one.sum(0, update), one.move(0, update, 8.0), one.state(0)):
            with pytest.raises(Superseded):
                await late
        await one.push(1, key, 2 * ones)
        assert (await one.sum(1, update)).squared_sums.sum() == 4 * 64
        assert not (await one.state(1)).parameters.any()

    asyncio.run(run())
