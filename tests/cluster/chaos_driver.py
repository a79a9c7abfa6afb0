"""A run at RAY_ADDRESS, begun or gone on with: `chaos_driver.py RUN FOLDER` says each step, and waits for a line."""

import sys
from pathlib import Path

from chaos_runs import chaos_plan

from cluster.plan import StepRecord
from cluster.training import run_meta_training


def tell(record: StepRecord) -> None:
    print("step", record.version, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    result = run_meta_training(chaos_plan(sys.argv[1], Path(sys.argv[2])), tell, lambda: False)
    print("hash", result.params_sha256, flush=True)
