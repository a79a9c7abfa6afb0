"""A checkpoint with shards of several meta-batches open is continued as it was cut, or refused in one line."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from bystanders import ignore, never
from fake_learner import training_plan
from server_bench import Bench

from cluster import checkpoint as checkpoints
from cluster.aggregation import AggregationPlan
from cluster.checkpoint import Checkpoint, decode, encode
from cluster.errors import CheckpointError
from cluster.ledger import OpenShards
from cluster.plan import TrainingPlan
from cluster.policies import Asynchronous, ServerPolicy, Stale
from cluster.training import run_meta_training


def resumed(folder: Path, policy: ServerPolicy) -> TrainingPlan:
    return replace(training_plan(folder, resume=True), aggregation=AggregationPlan(policy))


def midway(policy: ServerPolicy) -> Checkpoint:
    """After a meta-step of four shards, of which the first is still computed; asynchronous, and one shard further."""
    bench = Bench(replace(resumed(Path("unused"), policy), num_workers=2).server)
    bench.work("slow")
    bench.step("fast")
    if isinstance(policy, Asynchronous):
        base, reports = bench.work("fast")
        bench.push("fast", base, reports[0])
    return bench.checkpoint()


def of_before(checkpoint: Checkpoint) -> Checkpoint:
    """What is read of a file whose header does not say how the open shards were cut."""
    data = encode(checkpoint)
    size = int.from_bytes(data[8:16], "little")
    header = json.loads(data[16 : 16 + size])
    head = json.dumps({**header, "open_shards": header["open_shards"][:2]}).encode()
    body = data[:8] + len(head).to_bytes(8, "little") + head + data[16 + size : -32]
    return decode(body + hashlib.sha256(body).digest(), "x")


def run(plan: TrainingPlan, start: Checkpoint) -> int:
    checkpoints.save(start, plan.checkpoint_dir, 1)
    return run_meta_training(plan, ignore, never).num_tasks


def test_how_the_open_shards_were_cut_is_read_as_written_and_a_file_that_does_not_say_is_read_too():
    kept = midway(Stale(1))
    assert kept.open_shards == OpenShards(5, (0,), num_shards=4, meta_batch=10)
    assert decode(encode(kept), "x").open_shards == kept.open_shards
    assert of_before(kept).open_shards == OpenShards(5, (0,))


@pytest.mark.parametrize("policy", [Stale(1), Asynchronous()], ids=str)
@pytest.mark.parametrize(("name", "value", "cut"), [("num_shards", 5, 4), ("num_shards", 2, 4), ("meta_batch", 12, 10)])
def test_another_cut_than_that_of_the_open_shards_is_refused_with_both_values(
    policy: ServerPolicy, name: str, value: int, cut: int, tmp_path: Path
):
    other = replace(resumed(tmp_path, policy), **{name: value})
    message = (
        f"the checkpoint of meta-step 1 has shards of several meta-batches open, cut with {name}={cut}, not {value}"
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}: .*{name}={cut}"):
        run(other, midway(policy))


@pytest.mark.parametrize("policy", [Stale(1), Asynchronous()], ids=str)
def test_a_file_that_does_not_say_how_it_was_cut_is_refused_if_its_count_of_shards_does_not_fit(
    policy: ServerPolicy, tmp_path: Path
):
    plan, old = resumed(tmp_path, policy), of_before(midway(policy))
    with pytest.raises(CheckpointError, match=r"has \d shards done, which are not 1 meta-steps of num_shards=2"):
        run(replace(plan, num_shards=2), old)
    assert run(plan, old) == 120


def test_an_asynchronous_run_left_within_a_meta_step_is_resumed_as_one_alone(tmp_path: Path):
    with pytest.raises(
        CheckpointError, match=r"is of an asynchronous run, 1 of num_shards=4 .* policy=Stale\(bound=1\) .*: resume"
    ):
        run(resumed(tmp_path / "stale", Stale(1)), midway(Asynchronous()))
    assert run(resumed(tmp_path / "async", Asynchronous()), midway(Asynchronous())) == 120
    assert run(resumed(tmp_path / "other", Asynchronous()), midway(Stale(1))) == 120


def test_a_run_without_open_shards_goes_on_with_another_cut(tmp_path: Path):
    bench = Bench()
    bench.step()
    plan = replace(training_plan(tmp_path, resume=True), num_shards=5)
    assert bench.checkpoint().open_shards is None
    assert run(plan, bench.checkpoint()) == 120
