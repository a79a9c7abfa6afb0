from dataclasses import replace
from pathlib import Path

import pytest
from fake_learner import training_plan

from cluster.errors import UserError
from cluster.placement import bundles, num_units, shortage

PLAN = replace(training_plan(Path("unused"), num_workers=9), threads_per_worker=3)


def test_more_workers_than_shards_are_not_asked_for():
    assert num_units(PLAN) == 4 and bundles(PLAN) == [{"CPU": 3.0}]


def test_a_shortage_names_what_is_asked_what_is_held_and_what_to_do():
    one = shortage(PLAN, num_placed=1, num_needed=4, nodes=[{"CPU": 4.0, "memory": 1e9}], free={"CPU": 1.0})
    assert one == (
        "4 workers with threads_per_worker=3 ask for 12 CPUs, but the Ray cluster has 4 CPUs on 1 node, with 1 CPU "
        "free and a place for 1 of the workers: ask for fewer, lower --cluster.min-workers, or add nodes"
    )
    nodes = [{"CPU": 2.0}, {"CPU": 2.0, "GPU": 1.0}]
    two = shortage(PLAN, num_placed=0, num_needed=1, nodes=nodes, free={})
    assert "ask for 12 CPUs (1 of them would do)" in two
    assert "has 4 CPUs and 1 GPU on 2 nodes, 2 CPUs and 1 GPU on the largest, with nothing free" in two


@pytest.mark.parametrize("num", [0, 10])
def test_a_minimum_above_the_number_of_workers_is_refused(num: int):
    with pytest.raises(UserError, match=rf"min_workers={num} must lie in 1..num_workers=9"):
        replace(PLAN, min_workers=num)
