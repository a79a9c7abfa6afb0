from cluster.ledger import ShardLedger
from cluster.policies import MAX_ASSIGNED, may_replace_worker, num_to_assign
from cluster.shards import plan

SHARDS = plan(version=0, num_tasks=8, num_shards=4)


def test_shards_are_taken_in_order_and_once():
    ledger = ShardLedger(SHARDS)
    assert ledger.take("a", 1) == SHARDS[:1]
    assert ledger.take("b", 2) == SHARDS[1:3]
    assert ledger.take("a", 5) == SHARDS[3:]
    assert ledger.take("b", 1) == () and ledger.num_free == 0


def test_a_dead_workers_unreported_shards_are_free_again_in_order():
    ledger = ShardLedger(SHARDS)
    ledger.take("a", 3)
    ledger.report(SHARDS[1])
    assert ledger.release("a") == 2
    assert ledger.take("b", 4) == (SHARDS[0], SHARDS[2], SHARDS[3])
    assert ledger.release("a") == 0


def test_a_shard_reported_by_another_is_struck_out():
    ledger = ShardLedger(SHARDS)
    ledger.take("a", 1)
    ledger.release("a")
    ledger.report(SHARDS[0])
    assert ledger.take("b", 1) == (SHARDS[1],)


def test_an_only_worker_takes_a_step_in_few_messages_and_others_share():
    assert num_to_assign(2, num_workers=1) == 2
    assert num_to_assign(100, num_workers=1) == MAX_ASSIGNED
    assert num_to_assign(8, num_workers=2) == 2
    assert num_to_assign(1, num_workers=16) == 1
    assert num_to_assign(0, num_workers=2) == 0


def test_workers_that_keep_dying_are_not_replaced_for_ever():
    assert may_replace_worker(deaths_since_step=6, num_workers=2)
    assert not may_replace_worker(deaths_since_step=7, num_workers=2)
