"""A collective run of one or two ranks at RAY_ADDRESS that waits at a gate: `collective_driver.py FOLDER GATE`."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from fake_learner import Gated, training_plan

from cluster.checkpoint import load_newest
from cluster.training import run_meta_training

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    plan = training_plan(folder, num_workers=2, build=partial(Gated, 4, Path(sys.argv[2])))
    plan = replace(plan, strategy="collective", min_workers=1, threads_per_worker=2, start_timeout_s=120.0)
    run_meta_training(plan, lambda record: print("step", record.version, flush=True), lambda: False)
    print("parameters", load_newest(folder).parameters.tobytes().hex(), flush=True)
