"""A run that only a signal ends, started by a test in a process of its own: `endless_run.py FOLDER NUM_WORKERS`."""

import json
import sys
from pathlib import Path

from fake_learner import slow_gradient, training_plan

from cluster.plan import StepRecord
from cluster.training import run_meta_training


def announce(record: StepRecord) -> None:
    print(record.version, flush=True)


if __name__ == "__main__":
    plan = training_plan(
        Path(sys.argv[1]), num_steps=10**6, num_workers=int(sys.argv[2]), build=slow_gradient, checkpoint_every=10**5
    )
    result = run_meta_training(plan, announce, lambda: False)
    said = {"num_steps": result.num_steps, "interrupted": result.interrupted, "sha256": result.params_sha256}
    print(json.dumps(said))
