"""How the replicas of a collective run cut a meta-batch up, and how what they found is summed."""

from collections.abc import Sequence

import numpy as np

from cluster.refresh import join
from cluster.shards import Shard, ShardReport, plan, sum_by_name


def portion(shard: Shard, num_shards: int, index: int, size: int) -> tuple[Shard, ...]:
    """The pieces of a whole meta-batch that rank `index` of `size` computes: contiguous, as many for every rank.

    There are `num_shards` pieces, or the next multiple of `size`, so that no rank waits for another's extra piece; a
    meta-batch of fewer tasks than that is cut into one piece a rank.

    >>> [(piece.start, piece.stop) for piece in portion(Shard(0, 0, 0, 12, 12), num_shards=3, index=1, size=2)]
    [(6, 9), (9, 12)]
    """
    num_pieces = -(-num_shards // size) * size
    pieces = plan(shard.version, shard.meta_batch, num_pieces if num_pieces <= shard.meta_batch else size)
    each = len(pieces) // size
    mine = pieces[index * each : (index + 1) * each]
    return tuple(piece._replace(num_surveyed=shard.num_surveyed) for piece in mine) if shard.num_surveyed else mine


def add_up(shard: Shard, reports: Sequence[ShardReport]) -> ShardReport:
    """The report of `shard` from those of its pieces, added in float32 in their order, as a server would add them."""
    gradient = reports[0].gradient.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for report in reports[1:]:
            gradient += report.gradient
    statistics = sum_by_name([report.statistics for report in reports])
    compute_s, survey = sum(report.compute_s for report in reports), join([report.survey for report in reports])
    return ShardReport(shard, gradient, statistics, compute_s, survey)
