"""SOAP, whose state has matrices in lists: through a run's plan, its checkpoints and its replicas."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bystanders import ignore, never
from fake_learner import training_plan
from thread_ring import run_replicas

from cluster import checkpoint as checkpoints
from cluster.aggregation import AggregationPlan
from cluster.checkpoint import Checkpoint
from cluster.errors import UserError
from cluster.journal import Journal
from cluster.optimizer_plan import OptimizerPlan
from cluster.plan import StepRecord, TrainingPlan
from cluster.training import run_meta_training

SOAP = OptimizerPlan("soap", 1e-2, "constant", clip_norm=0.5)


def soap_plan(folder: Path, **changes: bool) -> TrainingPlan:
    return replace(training_plan(folder), optimizer=SOAP, **changes)


def test_a_plan_tells_soap_the_shapes_of_its_parameters(tmp_path: Path):
    plan = soap_plan(tmp_path)
    assert plan.server.optimizer.shapes == plan.optimizer.shapes == tuple(plan.parameter_shapes.values())
    assert (16, 3) in plan.optimizer.shapes


@pytest.mark.parametrize("name", ["soap", "adafactor"])
def test_an_optimizer_of_all_parameters_in_slices_is_refused_before_the_run(name: str, tmp_path: Path):
    with pytest.raises(UserError, match="num_slices=2 must be 1, or choose"):
        replace(training_plan(tmp_path), optimizer=OptimizerPlan(name), aggregation=AggregationPlan(num_slices=2))


def test_options_that_an_optimizer_lacks_are_refused_before_the_run(tmp_path: Path):
    with pytest.raises(UserError, match="'soap' has no option momentum"):
        replace(training_plan(tmp_path), optimizer=OptimizerPlan("soap", momentum=0.5))


def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped(tmp_path: Path):
    whole = run_meta_training(soap_plan(tmp_path / "whole"), ignore, never)
    records: list[StepRecord] = []
    run_meta_training(soap_plan(tmp_path / "half"), records.append, lambda: len(records) == 7)
    state = checkpoints.load_newest(tmp_path / "half").optimizer_state["state"]
    assert isinstance(state, dict)
    kept = [value for one in state.values() for value in one.values() if isinstance(value, list)]
    assert any(isinstance(part, torch.Tensor) and part.shape == (16, 16) for parts in kept for part in parts)
    resumed = run_meta_training(soap_plan(tmp_path / "half", resume=True), records.append, never)
    assert resumed.params_sha256 == whole.params_sha256
    adam = run_meta_training(
        replace(training_plan(tmp_path / "adam"), optimizer=replace(SOAP, name="adam")), ignore, never
    )
    assert adam.params_sha256 != whole.params_sha256


def test_one_replica_has_the_bits_of_the_server(tmp_path: Path):
    whole = run_meta_training(soap_plan(tmp_path / "server"), ignore, never)
    plan = soap_plan(tmp_path / "replica")
    start = Checkpoint(0, plan.parameters, plan.parameter_shapes, "soap", {}, plan.settings_yaml)
    checkpoints.save(start, plan.checkpoint_dir, plan.checkpoint_keep)
    journal = Journal(plan.server)
    run_replicas(plan, journal, 1)
    assert journal.finish().parameters.tobytes() == whole.parameters.tobytes()
