import itertools
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from cluster.errors import ClusterError
from jobs.submission import job_logs
from jobs.submission.job_exit import JobState
from jobs.submission.job_logs import LostJob, follow


class Cluster:
    """A job whose log grows by `pieces`; a None among them is a lost connection, after which all is sent again."""

    def __init__(self, *pieces: str | None, states: list[JobState | None]) -> None:
        self._pieces, self._states, self._begin = list(pieces), states, 0
        self.num_asked = 0

    async def tail(self, job: str) -> AsyncIterator[str]:
        for number, piece in enumerate(self._pieces):
            if piece is not None:
                yield piece
            elif number >= self._begin:
                self._begin = number + 1
                raise ClusterError("the connection is lost")

    def state(self, job: str) -> JobState:
        self.num_asked += 1
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        if state is None:
            raise ClusterError("no answer")
        return state


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(job_logs, "_RETRY_S", 0.0)
    monkeypatch.setattr(job_logs, "_ASK_EVERY_S", 0.01)


def test_every_piece_is_written_once_over_lost_connections_to_the_end_of_the_job():
    ended = JobState("FAILED", 2)
    cluster = Cluster("step 1\n", None, "step 2\n", None, "the end", states=[JobState("RUNNING"), ended])
    written: list[str] = []
    assert follow(cluster, "a", written.append) == ended
    assert "".join(written) == "step 1\nstep 2\nthe end"


def test_a_job_that_is_over_but_whose_connection_stays_silent_is_not_waited_for():
    class Silent(Cluster):
        async def tail(self, job: str) -> AsyncIterator[str]:
            import asyncio

            yield "begun\n"
            await asyncio.Event().wait()

    cluster = Silent(states=[JobState("RUNNING"), JobState("SUCCEEDED", 0)])
    written: list[str] = []
    assert follow(cluster, "a", written.append) == JobState("SUCCEEDED", 0)
    assert written == ["begun\n"] and cluster.num_asked >= 2


def test_one_lost_connection_after_a_long_time_is_made_again():
    class Slow(Cluster):
        async def tail(self, job: str) -> AsyncIterator[str]:
            time.sleep(0.1)
            async for piece in super().tail(job):
                yield piece

    ended = JobState("SUCCEEDED", 0)
    cluster = Slow("step 1\n", None, "the end", states=[ended])
    assert follow(cluster, "a", lambda _: None, give_up_s=0.05) == ended


def test_a_cluster_that_no_longer_answers_is_given_up_with_a_way_to_look_again():
    cluster = Cluster("step 1\n", states=[None])
    written: list[str] = []
    with pytest.raises(LostJob, match="no answer; the job a may go on, look with mcb jobs status a"):
        follow(cluster, "a", written.append, give_up_s=0.05)
    assert written == ["step 1\n"]


def test_connections_that_are_lost_again_and_again_are_no_end_while_the_log_grows(monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr(job_logs, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    ended = JobState("SUCCEEDED", 0)
    cluster = Cluster("step 1\n", None, "step 2\n", None, "step 3\n", None, "step 4\n", None, states=[ended])
    assert follow(cluster, "a", lambda _: None, give_up_s=1.5) == ended
    with pytest.raises(LostJob):
        follow(Cluster("step 1\n", None, None, None, None, states=[ended]), "a", lambda _: None, give_up_s=1.5)
