from typing import cast

import numpy as np
from server_bench import PLAN, Bench


def test_a_shard_reported_twice_changes_nothing():
    once, twice = Bench(), Bench()
    once.step()
    gathered = [report for worker in "abcd" for report in twice.work(worker)[1]]
    assert [report.shard.index for report in gathered] == [0, 1, 2, 3]
    for report in [gathered[2], gathered[0], gathered[2], gathered[0], gathered[1]]:
        assert twice.push("b", 0, report) is None
    record = twice.push("a", 0, gathered[3])
    assert record is not None and record.repeats == 2
    assert twice.push("b", 0, gathered[3]) is None and twice.state.version == 1
    assert twice.parameters == once.parameters


def test_a_dead_workers_shards_go_to_another_and_to_it_no_more():
    undisturbed, bench = Bench(), Bench()
    undisturbed.step()
    lost = bench.state.assign("dead")
    assert bench.state.release("dead") == len(lost) == 1
    assert bench.state.assign("dead") == ()
    bench.step("b")
    assert bench.parameters == undisturbed.parameters


def test_the_late_report_of_a_worker_thought_dead_counts_once():
    undisturbed, bench = Bench(), Bench()
    undisturbed.step()
    base, (late,) = bench.work("slow")
    bench.state.release("slow")
    bench.push("slow", base, late)
    assert all(shard.index != late.shard.index for shard in bench.state.assign("b"))
    bench.state.release("b")
    bench.step("c")
    assert bench.parameters == undisturbed.parameters


def test_what_a_worker_holds_and_does_not_report_is_given_to_others_when_it_asks_again():
    bench = Bench()
    (held,) = bench.state.assign("a")
    assert bench.state.take_back("a") == 1 and bench.state.take_back("a") == 0
    assert bench.state.assign("b") == (held,)


def test_the_record_splits_the_step_into_compute_and_the_rest():
    bench = Bench()
    gathered = [(worker, report) for worker in "abcd" for report in bench.work(worker)[1]]
    bench.now = 1.0
    record = None
    for worker, report in gathered:
        record = bench.push(worker, 0, report._replace(compute_s={"a": 0.6, "b": 0.3}.get(worker, 0.1)))
    assert record is not None
    np.testing.assert_allclose((record.step_s, record.compute_s, record.communication_s), (1.0, 0.6, 0.4))
    assert record.version == 1 and record.tasks_per_s == record.num_tasks == PLAN.meta_batch
    assert record.learning_rate == PLAN.optimizer.learning_rate_at(0, PLAN.num_steps)


def test_a_refused_step_changes_neither_parameters_nor_optimizer():
    bench = Bench()
    bench.step()
    before = bench.checkpoint()
    for worker in "abcd":
        base, reports = bench.work(worker)
        for report in reports:
            if report.shard.index == 2:
                report.gradient[0] = np.inf
            bench.push(worker, base, report)
    after = bench.checkpoint()
    assert after.version == 2 and after.num_refused == 1 and after.num_tasks == 2 * PLAN.meta_batch
    np.testing.assert_array_equal(after.parameters, before.parameters)
    moments, moments_before = (cast(dict, kept.optimizer_state["state"])[0]["exp_avg"] for kept in (after, before))
    np.testing.assert_array_equal(moments, moments_before)


def test_a_checkpoint_is_a_copy_that_later_steps_do_not_touch():
    bench = Bench()
    bench.step()
    kept = bench.checkpoint()
    assert kept.open_shards is None
    other = Bench(start=kept)
    bench.step()
    other.step()
    assert other.parameters == bench.parameters
    assert Bench(start=kept).parameters != bench.parameters


def test_a_meta_step_under_way_is_no_part_of_a_checkpoint():
    bench = Bench()
    bench.step()
    base, reports = bench.work("b")
    bench.push("b", base, reports[0])
    bench.work("a")
    assert bench.checkpoint().open_shards is None


def test_nothing_is_assigned_when_the_run_is_done():
    bench = Bench()
    for _ in range(PLAN.num_steps):
        bench.step()
    assert bench.state.is_done and bench.state.assign("a") == () and bench.state.is_checkpoint_due


def test_gradients_that_wait_for_one_before_them_are_the_queue():
    bench = Bench()
    gathered = [report for worker in "abcd" for report in bench.work(worker)[1]]
    record = [bench.push("b", 0, report) for report in reversed(gathered)][-1]
    assert record is not None and record.queue_length == 3
    assert bench.step().queue_length == 0


def test_bytes_and_waits_are_counted_by_the_step():
    bench = Bench()
    bench.state.sent_parameters()
    bench.state.waited(1.5)
    first, second = bench.step(), bench.step()
    assert first.num_bytes == 4 * PLAN.num_parameters * (PLAN.num_shards + 1)
    assert second.num_bytes == 4 * PLAN.num_parameters * PLAN.num_shards
    assert (first.waiting_s, second.waiting_s) == (1.5, 0.0)


def test_a_slow_workers_shard_is_taken_over_and_the_bits_stay():
    undisturbed, bench = Bench(), Bench()
    for _ in range(3):
        undisturbed.step()
    for _ in range(2):
        bench.now += 1
        bench.step()
    (slow,) = bench.work("slow")[1]
    base = 2
    for worker in "aaa":
        for report in bench.work(worker)[1]:
            bench.push(worker, base, report)
    assert bench.state.assign("a") == () and bench.state.take_over_in_s("a") == 0.25
    bench.now += 0.25
    (again,) = bench.work("a")[1]
    assert again.shard == slow.shard
    assert bench.push("a", base, again) is not None
    assert bench.push("slow", base, slow) is None
    assert bench.parameters == undisturbed.parameters and len(set(bench.counted)) == len(bench.counted) == 12
