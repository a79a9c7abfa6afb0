"""What stale and asynchronous runs promise though their bits are not fixed, and where they equal synchronous ones."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_learner import training_plan
from server_bench import Bench

from cluster.aggregation import AggregationPlan
from cluster.checkpoint import save
from cluster.errors import CheckpointError, UserError
from cluster.optimizer_plan import OptimizerPlan
from cluster.plan import ServerPlan, StepRecord
from cluster.policies import SYNCHRONOUS, Asynchronous, ServerPolicy, Stale, num_useful_workers
from cluster.shards import GradientKey
from cluster.training import run_meta_training
from cluster.update import Made

POLICIES: list[ServerPolicy] = [Stale(1), Stale(3), Asynchronous()]


def server_plan(policy: ServerPolicy, num_workers: int = 3) -> ServerPlan:
    plan = training_plan(Path("unused"), num_workers=num_workers)
    return replace(plan, aggregation=AggregationPlan(policy)).server


def muddle(bench: Bench, seed: int, num_reports: int = 10**6) -> list[StepRecord]:
    """Three workers of random speed, of which some forget what they have, until the run is over or `num_reports`."""
    draw = random.Random(seed)
    records: list[StepRecord] = []
    in_hand = {name: bench.work(name) for name in "abc"}
    for _ in range(num_reports):
        if bench.state.is_done:
            break
        name = draw.choice("aaabbc")
        base, reports = in_hand[name]
        for report in reports if draw.random() < 0.9 else ():
            record = bench.push(name, base, report)
            records += [record] if record is not None else []
        in_hand[name] = bench.work(name)
    return records


def expected_shards(plan: ServerPlan) -> list[tuple[int, int]]:
    return [(version, index) for version in range(plan.num_steps) for index in range(plan.num_shards)]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_every_shard_counts_once_and_none_is_older_than_the_bound(policy: ServerPolicy, seed: int):
    plan = server_plan(policy)
    bench = Bench(plan)
    records = muddle(bench, seed)
    assert [record.version for record in records] == list(range(1, plan.num_steps + 1))
    assert sorted((key.version, key.index) for key in bench.counted) == expected_shards(plan)
    assert sum(record.num_tasks for record in records) == plan.num_steps * plan.meta_batch
    assert bench.checkpoint().num_tasks == plan.num_steps * plan.meta_batch
    if isinstance(policy, Stale):
        assert 0 < max(record.staleness_max for record in records) <= policy.bound
    assert any(record.staleness_mean > 0 for record in records)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("num_reports", [1, 9, 17, 30])
def test_a_resumed_run_computes_what_is_open_and_nothing_twice(policy: ServerPolicy, num_reports: int):
    plan = server_plan(policy)
    first = Bench(plan)
    before = muddle(first, 5, num_reports)
    kept = first.checkpoint()
    second = Bench(plan, kept)
    after = muddle(second, 6)
    counted = [(key.version, key.index) for key in first.counted + second.counted]
    assert sorted(counted) == expected_shards(plan)
    assert [record.version for record in before + after] == list(range(1, plan.num_steps + 1))
    assert second.checkpoint().num_tasks == plan.num_steps * plan.meta_batch
    assert second.checkpoint().open_shards is None


def test_a_run_with_several_meta_batches_open_is_not_resumed_as_a_synchronous_one(tmp_path: Path):
    bench = Bench(server_plan(Stale(1)))
    bench.work("slow")
    bench.step("fast")
    assert bench.checkpoint().open_shards is not None
    save(bench.checkpoint(), tmp_path, keep=1)
    plan = training_plan(tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="meta-step 1 is of a stale or asynchronous run"):
        run_meta_training(plan, lambda record: None, lambda: False)
    stale = replace(plan, aggregation=AggregationPlan(Stale(1)))
    assert run_meta_training(stale, lambda record: None, lambda: False).num_tasks == 120


def test_a_gradient_older_than_the_bound_is_refused_counted_and_computed_anew():
    bench = Bench(server_plan(Stale(1), num_workers=2))
    base, (late,) = bench.work("slow")
    records = []
    while bench.state.version < 2:
        their_base, reports = bench.work("fast")
        records += [bench.push("fast", their_base, report) for report in reports]
    assert bench.push("slow", base, late) is None
    assert bench.work("slow")[1][0].shard == late.shard
    bench.state.release("slow")
    last = bench.step("fast")
    assert last.refused_pushes == 1 and last.staleness_max <= 1
    assert late.shard.index in [key.index for key in bench.counted if key.version == 0]


def test_staleness_counts_the_update_under_way_and_what_is_refused_is_forgotten():
    bench = Bench(server_plan(Stale(1), num_workers=2))
    base, (late,) = bench.work("slow")
    bench.step("fast")
    while (update := bench.state.next_update()) is None:
        their_base, reports = bench.work("fast")
        for report in reports:
            bench.state.accept("fast", their_base, report)
    assert bench.state.accept("slow", base, late) is None
    bench.state.finish_update(Made(1.0, None))
    while (following := bench.state.next_update()) is None:
        their_base, reports = bench.work("fast")
        for report in reports:
            bench.state.accept("fast", their_base, report)
    assert update.unused == () and following.unused == (GradientKey(0, late.shard.index, base),)


def in_slices(bench: Bench, seed: int) -> list[int]:
    """Three workers of random speed and updates that take a while, as with slices; the staleness of what counted."""
    draw = random.Random(seed)
    staleness: list[int] = []
    in_hand = {name: bench.work(name) for name in "abc"}
    update = None
    while not bench.state.is_done:
        if update is not None and (draw.random() < 0.2 or not any(reports for _, reports in in_hand.values())):
            staleness += [update.number - key.base for key in update.keys]
            bench.state.finish_update(Made(1.0, None))
            update = None
        name = draw.choice("aaabbc")
        base, reports = in_hand[name]
        for report in reports:
            bench.state.accept(name, base, report)
        in_hand[name] = bench.work(name)
        update = update or bench.state.next_update()
    return staleness


def test_staleness_counts_the_updates_of_gradients_that_wait_before_it():
    bench = Bench(replace(server_plan(Stale(2)), num_shards=1))
    (first,), (second,), (third,) = (bench.work(name)[1] for name in "abc")
    bench.state.accept("a", 0, first)
    update = bench.state.next_update()
    assert update is not None
    assert bench.state.accept("b", 0, second) is not None
    bench.state.finish_update(Made(1.0, None))
    assert bench.state.next_update() is not None
    (fourth,) = bench.work("a")[1]
    assert bench.state.accept("a", 1, fourth) is not None
    assert bench.state.accept("c", 0, third) is None


@pytest.mark.parametrize("num_shards", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_bound_holds_while_updates_take_their_time(num_shards: int, seed: int):
    bench = Bench(replace(server_plan(Stale(2)), num_shards=num_shards))
    staleness = in_slices(bench, seed)
    assert len(staleness) == bench.state.version * num_shards and 0 < max(staleness) <= 2


def test_nobody_waits_for_a_slow_worker_until_the_bound_is_reached():
    synchronous, stale = Bench(server_plan(SYNCHRONOUS)), Bench(server_plan(Stale(1)))
    for bench in (synchronous, stale):
        bench.work("slow")
    steps = []
    for bench in (synchronous, stale):
        while True:
            base, reports = bench.work("fast")
            if not reports:
                break
            for report in reports:
                bench.push("fast", base, report)
        steps.append(bench.state.version)
    assert steps[0] == 0 and steps[1] > 1


def test_one_worker_is_never_stale_so_its_stale_run_has_the_synchronous_bits(tmp_path: Path):
    plan = training_plan(tmp_path / "sync")
    stale = replace(plan, aggregation=AggregationPlan(Stale(3)), checkpoint_dir=tmp_path / "stale")
    results = [run_meta_training(one, lambda record: None, lambda: False) for one in (plan, stale)]
    assert results[0].params_sha256 == results[1].params_sha256


def test_one_workers_asynchronous_run_is_the_synchronous_one_of_meta_batches_of_one_shard(tmp_path: Path):
    optimizer = OptimizerPlan("sgd", 0.1, "constant", clip_norm=0.5)
    plan = replace(training_plan(tmp_path / "a"), num_shards=5, optimizer=optimizer)
    asynchronous = replace(plan, aggregation=AggregationPlan(Asynchronous()))
    small = replace(plan, num_shards=1, meta_batch=2, num_steps=5 * plan.num_steps, checkpoint_dir=tmp_path / "b")
    one, other = (run_meta_training(each, lambda record: None, lambda: False) for each in (asynchronous, small))
    np.testing.assert_allclose(one.parameters, other.parameters, rtol=1e-5, atol=1e-6)
    assert one.num_steps == 12 and one.num_tasks == other.num_tasks == 120


def test_more_workers_are_of_use_where_they_may_go_ahead():
    assert num_useful_workers(SYNCHRONOUS, num_shards=4, num_steps=10) == 4
    assert num_useful_workers(Stale(2), num_shards=4, num_steps=10) == 12
    assert num_useful_workers(Asynchronous(), num_shards=4, num_steps=10) == 40


def test_a_bound_below_zero_is_refused():
    with pytest.raises(UserError, match="bound=-1 must be at least 0"):
        Stale(-1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_slices", 0, "num_slices=0 must be at least 1"),
        ("gradient_wire", "float16", "gradient_wire='float16' must be one of float32, bfloat16"),
        ("parameter_wire", "int8", "parameter_wire='int8' must be one of"),
        ("straggler_factor", 0.5, "straggler_factor=0.5 must be a number of at least 1"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: object, message: str):
    with pytest.raises(UserError, match=message):
        replace(AggregationPlan(), **{field: value})


def test_more_slices_than_blocks_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"num_slices=3 must lie in 1..2: 83 meta-parameters are 2 blocks of 64"):
        replace(training_plan(tmp_path), aggregation=AggregationPlan(num_slices=3))


def test_an_update_says_what_no_later_one_will_sum():
    stale, asynchronous = Bench(server_plan(Stale(2))), Bench(server_plan(Asynchronous()))
    for bench in (stale, asynchronous):
        bench.work("slow")
    for _ in range(2):
        stale.step("fast")
    updates = []
    for bench in (stale, asynchronous):
        while (update := bench.state.next_update()) is None:
            base, reports = bench.work("fast")
            for report in reports:
                bench.state.accept("fast", base, report)
        updates.append(update)
    assert [(update.oldest_base, update.front) for update in updates] == [(0, 0), (0, 0)]
    stale.state.finish_update(Made(1.0, None))
    stale.state.release("slow")
    while (update := stale.state.next_update()) is None:
        base, reports = stale.work("fast")
        for report in reports:
            stale.state.accept("fast", base, report)
    assert update.oldest_base == 1
    stale.state.finish_update(Made(1.0, None))
    while (update := stale.state.next_update()) is None:
        base, reports = stale.work("fast")
        for report in reports:
            stale.state.accept("fast", base, report)
    assert update.oldest_base == 2 and update.front > 0


def test_an_asynchronous_run_hands_out_nothing_while_a_meta_steps_gradients_wait():
    bench = Bench(server_plan(Asynchronous()))
    bench.work("slow")
    num_waiting = 0
    while num_waiting < 100 and (reports := bench.work("fast")[1]):
        num_waiting += sum(bench.state.accept("fast", 0, report) is not None for report in reports)
    assert num_waiting == 4 and len(bench.state.summable) == 1 and bench.state.take_over_in_s("fast") is None
    assert bench.state.next_update() is not None and bench.work("fast")[1]


def test_the_server_has_room_for_every_workers_question():
    plan = replace(training_plan(Path("unused"), num_workers=5000), num_shards=2000, meta_batch=2000)
    assert plan.server.max_workers == 2000 and plan.server.max_calls > 2 * 2000
