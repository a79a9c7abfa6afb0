"""`mcb train` with workers: the parameters, modes and figures of one process."""

import numpy as np
import pytest
from tiny_runs import CLUSTERED

from cluster.checkpoint import load

pytestmark = pytest.mark.ray


def test_two_ray_workers_give_the_parameters_of_one_process(ray_cluster, plain_run, train):
    alone = plain_run.figures
    together = train("--out=together", "--seed=5", "--cluster.num-workers=2")
    assert together["params_sha256"] == alone["params_sha256"]
    assert together["evaluation"] == alone["evaluation"]


def test_clustered_runs_of_two_workers_and_of_one_process_are_the_same(ray_cluster, clustered_run, train):
    alone, together = clustered_run.figures, train("--out=together", "--cluster.num-workers=2", *CLUSTERED)
    assert together["params_sha256"] == alone["params_sha256"]
    assert together["evaluation"] == alone["evaluation"]
    first, other = (load(figures["checkpoint"]).mode_state for figures in (alone, together))
    assert first is not None and other is not None
    np.testing.assert_array_equal(first, other)
