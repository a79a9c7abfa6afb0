"""One thread for every library that clustering uses, in a process that has not loaded them yet."""

import json
import os
import subprocess
import sys

SCRIPT = """
import json
import numpy as np
from threadpoolctl import threadpool_info
from mcb.modes.clustering import find_clusters

class Looks:
    num_clusters = 2

    def __call__(self, points, seed):
        import sklearn.cluster
        self.inside = [library["num_threads"] for library in threadpool_info()]
        return np.zeros(len(points), dtype=int)

looks = Looks()
find_clusters(looks, np.ones((3, 2)), 0)
print(json.dumps([looks.inside, [library["num_threads"] for library in threadpool_info()]]))
"""


def test_libraries_that_are_loaded_late_compute_with_one_thread_too():
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    inside, outside = json.loads(run.stdout)
    assert set(inside) == {1} and len(inside) == len(outside) and 2 in outside
