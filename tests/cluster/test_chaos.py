"""Random deaths by SIGKILL change no bit: `chaos_cluster.py SEED...` tries seeds that no test names.

Seeds 0 to 11 were run while the runtime was written; a change of the runtime is to be tried with others.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from chaos import Killer, planned
from chaos_cluster import NUM_KILLS, disturbed, nodes
from chaos_runs import KINDS, NUM_STEPS, chaos_plan, run_of, undisturbed
from ray.cluster_utils import Cluster

from cluster.plan import StepRecord
from cluster.training import run_meta_training


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """sha256 of the parameters after a run, undisturbed in this process."""
    return cache(lambda run: undisturbed(run, tmp_path_factory.mktemp(run)))


@pytest.fixture(scope="module")
def chaos_cluster() -> Iterator[Cluster]:
    with nodes() as cluster:
        yield cluster


def test_a_seed_says_who_dies_and_seeds_differ():
    for run, kinds in KINDS.items():
        assert planned(3, NUM_STEPS, NUM_KILLS, kinds) == planned(3, NUM_STEPS, NUM_KILLS, kinds)
        assert planned(3, NUM_STEPS, NUM_KILLS, kinds) != planned(4, NUM_STEPS, NUM_KILLS, kinds)
        seeds = [seed for seed in range(2, 12) if run_of(seed) == run]
        assert {kill.kind for seed in seeds for kill in planned(seed, NUM_STEPS, NUM_KILLS, kinds)} == set(kinds)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("seed", "run", "kinds"),
    [
        (8, "slices", ("worker", "server", "slice")),  # three workers, the server and a slice
        pytest.param(0, "ranks", ("rank", "server"), marks=pytest.mark.slow),  # one of each: test_ray_groups.py
    ],
)
def test_server_and_workers_die_at_random_and_no_bit_changes(
    ray_cluster: None, tmp_path: Path, expected: Callable[[str], str], seed: int, run: str, kinds: tuple[str, ...]
):
    killer = Killer(planned(seed, NUM_STEPS, 5, kinds), {})
    versions: list[int] = []

    def on_step(record: StepRecord) -> None:
        versions.append(record.version)
        killer.after(record.version)

    assert run_meta_training(chaos_plan(run, tmp_path), on_step, lambda: False).params_sha256 == expected(run)
    assert {kill.kind for kill in killer.done} == set(kinds) and len(killer.done) == 5
    assert versions == list(range(1, NUM_STEPS + 1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_anything_dies_at_random_and_no_bit_changes(
    chaos_cluster: Cluster, tmp_path: Path, expected: Callable[[str], str], seed: int
):
    outcome = disturbed(seed, chaos_cluster, tmp_path)
    assert outcome.sha256 == expected(run_of(seed)), outcome.kills
    assert len(outcome.kills) == NUM_KILLS
    for versions in outcome.versions:
        assert versions == list(range(versions[0], versions[-1] + 1)) if versions else True
    assert {version for versions in outcome.versions for version in versions} == set(range(1, NUM_STEPS + 1))
