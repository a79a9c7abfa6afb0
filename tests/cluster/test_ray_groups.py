"""Workers of several ranks over Ray: the bits of the run in this process, whichever rank dies."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from bystanders import ignore, never
from chaos import Killer, planned
from fake_learner import Renamed
from group_learner import FailingRank, SignalledRank, group_plan_of, with_ranks
from victims import victims

from cluster.errors import ClusterError
from cluster.plan import StepRecord
from cluster.training import run_meta_training

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """sha256 of the parameters after the run of threads in this process."""
    return run_meta_training(group_plan_of(tmp_path_factory.mktemp("local")), ignore, never).params_sha256


@pytest.mark.slow  # with two groups the next test proves it
@pytest.mark.parametrize("num_workers", [1, 2])
def test_any_number_of_groups_gives_the_bits_of_one_process(
    ray_cluster: None, tmp_path: Path, expected: str, num_workers: int
):
    records: list[StepRecord] = []
    result = run_meta_training(group_plan_of(tmp_path, num_workers=num_workers), records.append, never)
    assert result.params_sha256 == expected
    assert [record.version for record in records] == list(range(1, 9))


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_group_that_loses_a_rank_is_replaced_and_joins_a_new_server_and_the_bits_stay(
    ray_cluster: None, tmp_path: Path, expected: str, victim: int, caplog: pytest.LogCaptureFixture
):
    marker = tmp_path / "killed"
    build = partial(SignalledRank, signal.SIGKILL, 4, marker, victim)
    plan = with_ranks(group_plan_of(tmp_path / "run", num_workers=2), build)
    versions: list[int] = []

    def kill(record: StepRecord) -> None:
        versions.append(record.version)
        if record.version == 6:
            victims("Server")[0].kill()

    assert run_meta_training(plan, kill, never).params_sha256 == expected
    assert versions == list(range(1, 9))
    assert marker.exists() and caplog.text.count("another takes its place") == 1
    assert caplog.text.count("the parameter server died after meta-step") == 1


@pytest.mark.slow
def test_a_group_with_a_rank_that_hangs_is_replaced_and_the_bits_stay(ray_cluster: None, tmp_path: Path, expected: str):
    marker = tmp_path / "stopped"
    build = partial(SignalledRank, signal.SIGSTOP, 4, marker, 1)
    plan = with_ranks(group_plan_of(tmp_path / "run", num_workers=1), build, timeout_s=20.0)
    assert run_meta_training(plan, ignore, never).params_sha256 == expected
    assert marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_ranks_and_server_die_at_random_and_no_bit_changes(ray_cluster: None, tmp_path: Path, expected: str, seed: int):
    killer = Killer(planned(seed, 8, 3, ("rank", "rank", "server")), {})
    versions: list[int] = []

    def on_step(record: StepRecord) -> None:
        versions.append(record.version)
        killer.after(record.version)

    assert run_meta_training(group_plan_of(tmp_path, num_workers=2), on_step, never).params_sha256 == expected
    assert len(killer.done) == 3 and versions == list(range(1, 9))


def test_what_one_rank_raises_is_raised_here(ray_cluster: None, tmp_path: Path):
    with pytest.raises(ValueError, match=r"shard \d of a rank with a mistake"):
        run_meta_training(with_ranks(group_plan_of(tmp_path, num_workers=1), FailingRank), ignore, never)


def test_a_rank_of_other_code_is_refused_before_the_plan_is_unpickled_there(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cluster.unit.code_version", lambda: "sources 0")
    with pytest.raises(ClusterError, match=r"worker could not start: .* runs other code than the run: .* sources 0"):
        run_meta_training(with_ranks(group_plan_of(tmp_path, num_workers=1), Renamed()), ignore, never)


def test_groups_that_the_cluster_cannot_hold_are_refused_saying_so(ray_cluster: None, tmp_path: Path):
    plan = replace(group_plan_of(tmp_path, num_ranks=5, num_workers=1), start_timeout_s=1.0)
    with pytest.raises(
        ClusterError, match=r"1 worker of 5 ranks, each worker on one node, .* asks for 5 CPUs, .* has 4 CPUs"
    ):
        run_meta_training(plan, ignore, never)


@pytest.mark.slow
def test_a_group_stays_on_one_node_and_groups_spread_over_nodes(tmp_path: Path, expected: str):
    script = Path(__file__).with_name("groups_on_nodes.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(script.parents[2]), str(script.parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, script, tmp_path], env=environment, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert [len(ranks) for ranks in told["nodes"]] == [2, 2, 2]
    assert all(first == second for first, second in told["nodes"])
    assert len({ranks[0] for ranks in told["nodes"]}) == 3
    assert told["params_sha256"] == expected
