import pytest

from cluster.errors import UserError
from cluster.shards import plan


@pytest.mark.parametrize(("num_tasks", "num_shards"), [(1, 1), (10, 3), (125, 4), (7, 7)])
def test_shards_partition_the_meta_batch_in_order_with_even_sizes(num_tasks: int, num_shards: int):
    shards = plan(version=6, num_tasks=num_tasks, num_shards=num_shards)
    tasks = [task for shard in shards for task in range(shard.start, shard.stop)]
    assert tasks == list(range(6 * num_tasks, 7 * num_tasks))
    assert [shard.index for shard in shards] == list(range(num_shards))
    sizes = [shard.num_tasks for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_shards", [0, 9])
def test_a_number_of_shards_out_of_range_is_refused(num_shards: int):
    with pytest.raises(UserError, match=rf"num_shards={num_shards} must lie in 1..num_tasks=8"):
        plan(version=0, num_tasks=8, num_shards=num_shards)
