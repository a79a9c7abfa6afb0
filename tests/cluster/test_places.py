"""A run inside a placement group keeps to it."""

from pathlib import Path

import pytest
import ray
from fake_learner import slow_gradient, training_plan
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.training import run_meta_training


def train_inside(folder: Path, num_workers: int) -> tuple[str, float]:
    """What the run gave, and the CPUs of the cluster that were free while it went."""
    free: list[float] = []

    def on_step(record: object) -> None:
        free.append(ray.available_resources().get("CPU", 0.0))

    plan = training_plan(folder, num_workers=num_workers, build=slow_gradient)
    return run_meta_training(plan, on_step, lambda: False).params_sha256, max(free)


@pytest.mark.ray
def test_a_run_takes_the_places_of_a_group_that_was_made_for_it_and_of_any_other_none(
    ray_cluster: None, tmp_path: Path
):
    expected = run_meta_training(training_plan(tmp_path / "local"), lambda record: None, lambda: False).params_sha256
    group = placement_group([{"CPU": 1}] * 2)  # half of what the cluster has
    ray.get(group.ready())
    try:
        inside = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        task = ray.remote(train_inside).options(num_cpus=0, scheduling_strategy=inside)
        assert ray.get(task.remote(tmp_path / "made for it", 2)) == (expected, 2.0)
        assert ray.get(task.remote(tmp_path / "another", 1)) == (expected, 1.0)
    finally:
        remove_placement_group(group)
