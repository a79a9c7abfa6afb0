"""A run of two to four workers at RAY_ADDRESS that waits at a gate: `elastic_driver.py FOLDER GATE FIRST_GATED`."""

import logging
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from fake_learner import Gated, training_plan

from cluster.training import run_meta_training

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout, force=True)
    build = partial(Gated, int(sys.argv[3]), Path(sys.argv[2]))
    plan = replace(training_plan(Path(sys.argv[1]), num_workers=4, build=build), min_workers=2, start_timeout_s=120.0)
    result = run_meta_training(plan, lambda record: None, lambda: False)
    print("hash", result.params_sha256, flush=True)
