"""Groups of processes over gloo, and of threads: the meta-gradient of one process, and an end when a rank is lost."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from bystanders import ignore, never
from group_learner import (
    INFERENCES,
    FailingRank,
    build_share,
    double_gradient,
    group_plan_of,
    in_a_process,
    lead_a_rank_that_leaves,
    lead_and_fail,
    make_learner,
    with_ranks,
)

from cluster.errors import GroupBroken, UserError
from cluster.gradient import initial_parameters
from cluster.group import connect, listen
from cluster.group_plan import GroupPlan, mean_over_ranks
from cluster.local_group import LocalGroup
from cluster.shards import plan
from cluster.training import run_meta_training


def needs_gpus(num: int) -> pytest.MarkDecorator:
    """Skips where torch finds fewer."""
    there_are = torch.cuda.device_count()
    return pytest.mark.skipif(there_are < num, reason=f"needs {num} GPUs, torch finds {there_are}")


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Three processes, which take long to start."""
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize(
    ("device", "nccl", "largest"),
    [
        pytest.param("cpu", False, 3, id="gloo"),
        pytest.param("cuda:0", False, 3, id="gloo, one GPU", marks=needs_gpus(1)),
        pytest.param("cuda:{rank}", True, 1, id="nccl, one GPU", marks=needs_gpus(1)),
        pytest.param("cuda:{rank}", True, 3, id="nccl, a GPU each", marks=needs_gpus(3)),
    ],
)
def test_groups_of_processes_have_the_meta_gradient_of_one_in_float64(
    pool: ProcessPoolExecutor, device: str, nccl: bool, largest: int
):
    sizes = range(1, largest + 1)
    stores = {num_ranks: listen(60.0) for num_ranks in sizes}
    ports = {num_ranks: store.port for num_ranks, store in stores.items()}
    found = list(pool.map(partial(in_a_process, ports=ports, device=device, nccl=nccl), range(largest)))
    for inference in INFERENCES:
        expected = double_gradient(inference).numpy()
        for num_ranks in sizes:
            ranks = [gradients[inference, num_ranks] for gradients in found[:num_ranks]]
            assert np.linalg.norm(sum(ranks) / num_ranks - expected) <= 1e-9 * np.linalg.norm(expected)


def test_a_leader_whose_rank_is_gone_finds_out_at_once_and_not_by_its_timeout(pool: ProcessPoolExecutor):
    store = listen(600.0)
    leader, rank = pool.map(partial(lead_a_rank_that_leaves, port=store.port), range(2))
    assert rank == "gone after one shard"
    assert leader.startswith("a rank went away")


def test_a_leader_that_fails_lets_the_others_go(pool: ProcessPoolExecutor):
    store = listen(600.0)
    leader, rank = pool.map(partial(lead_and_fail, port=store.port), range(2))
    assert leader == rank == 2


@pytest.mark.parametrize("inference", list(INFERENCES))
def test_a_group_of_threads_has_the_meta_gradient_of_one_process(inference: str):
    shard = plan(3, 10, 2)[1]
    parameters = initial_parameters(make_learner(inference))
    alone = build_share(inference)(parameters, shard)
    together = LocalGroup(GroupPlan(3, partial(build_share, inference)), num_threads=1)(parameters, shard)
    np.testing.assert_allclose(together.gradient, alone.gradient, rtol=1e-3, atol=1e-6)
    for name, value in alone.statistics.items():
        np.testing.assert_allclose(together.statistics[name], value, rtol=1e-5)
    assert np.linalg.norm(alone.gradient) > 1e-3


def test_a_thread_that_fails_ends_the_others_and_its_error_is_the_one_raised(tmp_path: Path):
    with pytest.raises(ValueError, match=r"shard \d of a rank with a mistake"):
        run_meta_training(with_ranks(group_plan_of(tmp_path), FailingRank), ignore, never)


def test_gradients_are_averaged_in_the_order_of_ranks():
    big, small = np.full(1, 2**24, dtype=np.float32), np.ones(1, dtype=np.float32)  # 2^24 + 1 is no float32
    assert mean_over_ranks([big, small, small])[0] == np.float32(2**24) / np.float32(3)
    assert mean_over_ranks([small, small, big])[0] == np.float32(2**24 + 2) / np.float32(3)
    assert small[0] == 1


@pytest.mark.parametrize(
    ("num_ranks", "timeout_s", "message"), [(1, 1.0, "ranks_per_worker=1"), (2, 0.0, "rank_timeout_s=0")]
)
def test_a_group_that_is_none_is_refused(num_ranks: int, timeout_s: float, message: str):
    with pytest.raises(UserError, match=message):
        GroupPlan(num_ranks, partial(build_share, "svgd"), timeout_s)


def test_a_rank_that_finds_no_leader_says_so():
    with pytest.raises(GroupBroken, match="rank 0 does not answer at port 1"):
        connect(1, 0.1)
