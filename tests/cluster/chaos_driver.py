"""A run on the cluster at RAY_ADDRESS, begun or gone on with: `chaos_driver.py FOLDER`; says each step and its hash."""

import sys
from dataclasses import replace
from pathlib import Path

from fake_learner import slow_gradient, training_plan

from cluster.checkpoint import paths
from cluster.plan import TrainingPlan
from cluster.training import run_meta_training

NUM_STEPS = 30


def chaos_plan(folder: Path, num_workers: int = 3) -> TrainingPlan:
    """The run that is disturbed, and with `num_workers=0` the one that is not."""
    plan = training_plan(
        folder, num_steps=NUM_STEPS, num_workers=num_workers, build=slow_gradient, resume=bool(paths(folder))
    )
    return replace(plan, min_workers=1 if num_workers else None, start_timeout_s=120.0)


if __name__ == "__main__":
    result = run_meta_training(
        chaos_plan(Path(sys.argv[1])), lambda record: print("step", record.version, flush=True), lambda: False
    )
    print("hash", result.params_sha256, flush=True)
