import pytest

from cluster.ledger import OpenShards, ShardLedger
from cluster.policies import MAX_ASSIGNED, Deaths, num_to_assign
from cluster.shards import Shard, plan

SHARDS = plan(version=0, num_tasks=8, num_shards=4)
LATER = plan(version=1, num_tasks=8, num_shards=4)


def ledger_at(front: int = 0, *pending: int) -> ShardLedger:
    return ShardLedger(meta_batch=8, num_shards=4, start=OpenShards(front, pending))


def gather(ledger: ShardLedger, worker_id: str, *shards: Shard, now: float = 0.0) -> None:
    for shard in shards:
        assert ledger.is_open(shard)
        ledger.gather(worker_id, shard, now)


def test_shards_are_taken_in_order_and_once():
    ledger = ledger_at()
    assert ledger.take("a", 1, 4, 0.0) == SHARDS[:1]
    assert ledger.take("b", 2, 4, 0.0) == SHARDS[1:3]
    assert ledger.take("a", 5, 4, 0.0) == SHARDS[3:]
    assert ledger.take("b", 1, 4, 0.0) == () and ledger.num_free(4) == 0


def test_those_of_the_next_meta_batch_follow_where_they_may_be_handed_out():
    ledger = ledger_at()
    assert ledger.num_free(8) == 4
    ledger.take("a", 3, 8, 0.0)
    assert ledger.num_free(8) == 1
    assert ledger.take("b", 3, 8, 0.0) == (SHARDS[3], *LATER[:2])
    assert ledger.num_free(8) == 2 and ledger.num_free(6) == 0 and ledger.num_free(4) == 0


def test_a_dead_workers_unreported_shards_are_free_again_in_order():
    ledger = ledger_at()
    ledger.take("a", 3, 4, 0.0)
    gather(ledger, "a", SHARDS[1])
    assert ledger.release("a") == 2
    assert ledger.num_free(4) == 3
    assert ledger.take("b", 4, 4, 0.0) == (SHARDS[0], SHARDS[2], SHARDS[3])
    assert ledger.release("a") == 0


def test_a_shard_is_open_from_the_hour_it_is_handed_out_until_its_gradient_is_here():
    ledger = ledger_at()
    assert not ledger.is_open(SHARDS[0])
    ledger.take("a", 1, 4, 0.0)
    assert ledger.is_open(SHARDS[0]) and not ledger.is_open(SHARDS[0]._replace(stop=3))
    ledger.release("a")
    gather(ledger, "a", SHARDS[0])
    assert not ledger.is_open(SHARDS[0])
    assert ledger.take("b", 1, 4, 0.0) == (SHARDS[1],)


def test_another_ledger_goes_on_with_all_that_took_part_in_no_update():
    ledger = ledger_at()
    ledger.take("a", 6, 8, 0.0)
    gather(ledger, "a", *SHARDS[1:4], LATER[0])
    ledger.count([(0, 1), (0, 2), (1, 0), (0, 3)])
    assert ledger.open_shards() == OpenShards(5, (0,), num_shards=4, meta_batch=8)
    assert ledger.open_shards().num_counted == 4
    other = ledger_at(5, 0)
    assert other.num_free(8) == 1
    assert other.take("b", 3, 8, 0.0) == (SHARDS[0], *LATER[1:3])


def five_shards_in(seconds: float) -> ShardLedger:
    """A ledger that knows how long a shard takes, and the sixth and seventh held by a since 10."""
    ledger = ledger_at()
    ledger.take("b", 1, 8, 0.0)
    gather(ledger, "b", SHARDS[0], now=seconds)
    for shard in (*SHARDS[1:], LATER[0]):
        ledger.take("b", 1, 8, 0.0)
        gather(ledger, "b", shard, now=seconds)
    assert ledger.take("a", 2, 8, 10.0) == LATER[1:3]
    return ledger


def test_a_shard_held_too_long_is_given_to_one_other_worker_at_a_time():
    ledger = five_shards_in(seconds=1.0)
    assert ledger.take_over_in_s("b", 3.0, now=12.0) == pytest.approx(4.0)
    assert ledger.take_over("b", 3.0, now=15.9) == ()
    assert ledger.take_over("a", 3.0, now=99.0) == () and ledger.take_over_in_s("a", 3.0, now=99.0) is None
    assert ledger.take_over("b", None, now=99.0) == () and ledger.take_over_in_s("b", None, now=99.0) is None
    assert ledger.take_over("b", 3.0, now=16.0) == LATER[1:2]
    assert ledger.take_over("c", 3.0, now=16.0) == LATER[2:3]
    assert ledger.take_over("d", 3.0, now=16.0) == ()


def test_a_shard_gets_another_holder_whenever_its_latest_is_overdue_so_that_any_idle_worker_ends_a_stall():
    ledger = five_shards_in(seconds=1.0)
    assert ledger.take_over("b", 3.0, now=16.0) == LATER[1:2] and ledger.take_over("c", 3.0, now=16.0) == LATER[2:3]
    assert ledger.take_over_in_s("d", 3.0, now=17.0) == pytest.approx(2.0)
    assert ledger.take_over("b", 3.0, now=18.9) == () == ledger.take_over("d", 3.0, now=18.9)
    assert ledger.take_over("d", 3.0, now=19.0) == LATER[1:2] and ledger.take_over("b", 3.0, now=19.0) == LATER[2:3]
    assert ledger.take_over_in_s("e", 3.0, now=19.0) == pytest.approx(3.0)
    assert ledger.release("d") == 0 and ledger.take_over("e", 3.0, now=19.0) == LATER[1:2]
    gather(ledger, "e", LATER[1], now=20.0)
    assert not ledger.is_open(LATER[1]) and [ledger.release(holder) for holder in "cab"] == [0, 0, 1]


def test_a_shard_that_surveys_is_overdue_only_after_as_much_longer_as_it_has_more_tasks():
    surveys = ShardLedger(8, 4, OpenShards(0, ()), lambda version: 16 if version == 1 else 0)
    for shard in SHARDS:
        surveys.take("b", 1, 4, 0.0)
        gather(surveys, "b", shard, now=1.0)
    slow = surveys.take("b", 1, 8, 0.0)
    gather(surveys, "b", *slow, now=3.0)  # three times the tasks in three times the time: still 1 s a shard
    assert surveys.take("a", 2, 8, 10.0) == tuple(shard._replace(num_surveyed=16) for shard in LATER[1:3])
    assert surveys.take_over_in_s("b", 3.0, now=10.0) == pytest.approx(3.0 * 2 * 3)
    assert surveys.take_over("b", 3.0, now=28.0) == (LATER[1]._replace(num_surveyed=16),)


def test_the_first_answer_wins_and_a_death_leaves_the_shard_to_the_other():
    ledger = five_shards_in(seconds=1.0)
    ledger.take_over("b", 3.0, now=16.0)
    ledger.take_over("c", 3.0, now=16.0)
    gather(ledger, "b", LATER[1], now=17.0)
    assert not ledger.is_open(LATER[1])
    assert ledger.release("a") == 0
    assert ledger.is_open(LATER[2]) and ledger.release("c") == 1
    assert ledger.take("b", 1, 8, 20.0) == (LATER[2],)


def test_without_enough_times_and_below_a_quarter_of_a_second_nothing_is_taken_over():
    ledger = ledger_at()
    ledger.take("a", 1, 4, 0.0)
    assert ledger.take_over_in_s("b", 3.0, now=1e6) is None
    quick = five_shards_in(seconds=0.001)
    assert quick.take_over_in_s("b", 3.0, now=10.0) == pytest.approx(2 * 0.25)


def test_an_only_worker_takes_a_step_in_few_messages_and_others_share():
    assert num_to_assign(2, num_workers=1) == 2
    assert num_to_assign(100, num_workers=1) == MAX_ASSIGNED
    assert num_to_assign(8, num_workers=2) == 2
    assert num_to_assign(1, num_workers=16) == 1
    assert num_to_assign(0, num_workers=2) == 0


def test_workers_that_keep_dying_are_not_replaced_for_ever():
    assert Deaths(6, 6).may_replace(num_workers=2)
    assert not Deaths(7, 7).may_replace(num_workers=2)
