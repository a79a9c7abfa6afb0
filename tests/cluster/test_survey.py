"""A shard's part of a survey."""

import numpy as np
import pytest
import torch
from fake_learner import FakeSource
from stateful_learner import NUM_SURVEYED, StatefulLearner, build_stateful
from torch import Tensor

from cluster import survey as surveys
from cluster.errors import UserError
from cluster.gradient import initial_parameters
from cluster.portions import add_up, portion
from cluster.shards import Shard, plan
from cluster.survey import initial_state, sample_reservoir, survey, write_state
from mcb.randomness import fold_key
from mcb.types import Support

CPU = torch.device("cpu")


def of_all(learner: StatefulLearner, num_tasks: int = NUM_SURVEYED) -> np.ndarray:
    return survey(learner, FakeSource(), 0, range(num_tasks), CPU)


@pytest.mark.parametrize(("num_tasks", "num_shards", "num_surveyed"), [(10, 4, 17), (10, 3, 4), (7, 7, 1), (1, 1, 300)])
def test_the_shards_of_a_meta_batch_survey_every_task_once_and_in_order(
    num_tasks: int, num_shards: int, num_surveyed: int
):
    shards = [shard._replace(num_surveyed=num_surveyed) for shard in plan(5, num_tasks, num_shards)]
    assert [row for shard in shards for row in shard.surveyed] == list(range(num_surveyed))
    assert not plan(5, num_tasks, num_shards)[0].surveyed


def test_the_ranks_of_a_collective_run_survey_every_task_once_and_in_order():
    whole, compute, parameters = (
        Shard(3, 0, 30, 40, 10, NUM_SURVEYED),
        build_stateful(),
        initial_parameters(StatefulLearner()),
    )
    pieces = [portion(whole, 3, index, 2) for index in range(2)]
    assert [row for mine in pieces for piece in mine for row in piece.surveyed] == list(range(NUM_SURVEYED))
    found = [add_up(whole, [compute(parameters, piece) for piece in mine]).survey for mine in pieces]
    np.testing.assert_allclose(
        np.concatenate([rows for rows in found if rows is not None]), of_all(StatefulLearner()), rtol=1e-5
    )


def test_a_report_has_the_rows_of_its_shard_at_its_parameters_and_the_gradient_of_one_without():
    compute, parameters = build_stateful(), initial_parameters(StatefulLearner())
    plain = plan(2, 10, 4)[1]
    shard = plain._replace(num_surveyed=NUM_SURVEYED)
    report, without = compute(2 * parameters, shard), compute(2 * parameters, plain)
    assert without.survey is None and report.survey is not None
    np.testing.assert_array_equal(report.gradient, without.gradient)
    learner = StatefulLearner()
    for parameter in learner.parameters():
        parameter.data *= 2
    np.testing.assert_allclose(report.survey, of_all(learner)[shard.surveyed.start : shard.surveyed.stop], rtol=1e-5)
    assert np.abs(report.survey - of_all(StatefulLearner())[shard.surveyed.start : shard.surveyed.stop]).min() > 1e-4


def test_the_reservoir_is_no_part_of_the_training_stream_and_depends_on_the_seed():
    indices = torch.arange(5)
    tasks = sample_reservoir(FakeSource(), 0, indices)
    assert not torch.equal(tasks.query_y, FakeSource().sample(fold_key(0, "train"), indices).query_y)
    assert not torch.equal(tasks.query_y, sample_reservoir(FakeSource(), 1, indices).query_y)


def test_a_large_part_is_surveyed_in_batches(monkeypatch: pytest.MonkeyPatch):
    whole = of_all(StatefulLearner())
    monkeypatch.setattr(surveys, "_AT_ONCE", 5)
    np.testing.assert_allclose(of_all(StatefulLearner()), whole, rtol=1e-5)


class NotFinite(StatefulLearner):
    def survey(self, support: Support, mode: Tensor, noise: Tensor | None) -> Tensor:
        rows = super().survey(support, mode, noise)
        rows[2, 1] = torch.inf
        return rows


def test_a_row_that_is_not_finite_is_refused_naming_its_task(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="task 2 of the reservoir has a representation that is not finite"):
        of_all(NotFinite())
    monkeypatch.setattr(surveys, "_AT_ONCE", 3)
    with pytest.raises(UserError, match="task 9 of the reservoir"):
        survey(NotFinite(), FakeSource(), 0, range(7, 12), CPU)


def test_a_state_is_written_into_the_live_tensors_and_read_back():
    learner, state = StatefulLearner(), np.arange(9, dtype=np.float32)
    centres = learner.modes.centres
    state.flags.writeable = False
    write_state(learner, state)
    assert initial_state(learner).tolist() == state.tolist() and centres[2, 1] == 5
    with pytest.raises(UserError, match=r"a vector of shape \(8,\) does not fit a state of 9 numbers"):
        write_state(learner, state[:8])
