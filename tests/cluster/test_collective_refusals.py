"""What the collective strategy cannot do is said before Ray starts."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from fake_learner import training_plan
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError

from cluster import checkpoint as checkpoints
from cluster.aggregation import AggregationPlan
from cluster.checkpoint import Checkpoint
from cluster.errors import CheckpointError, ClusterError, UserError
from cluster.ledger import OpenShards
from cluster.policies import Asynchronous, Stale
from cluster.trainer import Trainer
from cluster.training import run_meta_training


@pytest.mark.parametrize(
    ("aggregation", "message"),
    [
        (AggregationPlan(policy=Stale(2)), r"policy=Stale\(bound=2\) is for a parameter server"),
        (AggregationPlan(policy=Asynchronous()), "policy=Asynchronous"),
        (AggregationPlan(num_slices=2), "num_slices=2 .* leave it at 1, or choose --cluster.strategy server"),
        (AggregationPlan(gradient_wire="bfloat16"), "gradient_wire=bfloat16"),
        (AggregationPlan(straggler_factor=9.0), "straggler_factor=9.0"),
    ],
)
def test_settings_of_the_server_are_refused(aggregation: AggregationPlan, message: str, tmp_path: Path):
    plan = replace(training_plan(tmp_path), aggregation=aggregation)
    with pytest.raises(UserError, match=message):
        replace(plan, strategy="collective")


def test_another_strategy_is_refused_with_those_that_there_are(tmp_path: Path):
    with pytest.raises(UserError, match="strategy='ring' must be 'server' or 'collective'"):
        replace(training_plan(tmp_path), strategy="ring")  # pyright: ignore[reportArgumentType]


def test_no_more_ranks_than_tasks(tmp_path: Path):
    plan = replace(training_plan(tmp_path, num_workers=64), strategy="collective")
    assert (plan.max_workers, plan.meta_batch) == (10, 10)


def test_a_checkpoint_in_the_midst_of_a_meta_batch_is_refused(tmp_path: Path):
    plan = replace(training_plan(tmp_path, num_workers=1, resume=True), strategy="collective")
    start = Checkpoint(2, plan.parameters, plan.parameter_shapes, "adam", {}, open_shards=OpenShards(9, (7,)))
    checkpoints.save(start, tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"several meta-batches open: resume it with the server strategy"):
        run_meta_training(plan, lambda record: None, lambda: False)


def test_a_checkpoint_of_another_learner_is_refused(tmp_path: Path):
    plan = replace(training_plan(tmp_path, num_workers=1, resume=True), strategy="collective")
    checkpoints.save(Checkpoint(2, plan.parameters, {"weight": plan.parameters.shape}, "adam", {}), tmp_path, 1)
    with pytest.raises(CheckpointError, match="of another learner"):
        run_meta_training(plan, lambda record: None, lambda: False)


def test_where_ray_train_gives_up_its_reason_and_the_remedy_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from ray.train import ControllerError
    from ray.train.torch import TorchTrainer

    def fit(trainer: TorchTrainer) -> None:
        raise ControllerError(OutOfMemoryError("4 worker(s) were killed\nand much more"))

    monkeypatch.setattr(TorchTrainer, "fit", fit)
    plan = replace(training_plan(tmp_path, num_workers=1), strategy="collective")
    with pytest.raises(
        ClusterError, match=r"gave up \(.* 4 worker\(s\) were killed\): resume from the last checkpoint"
    ):
        Trainer().fit(plan, cast(ActorHandle, None), "sources 0")
