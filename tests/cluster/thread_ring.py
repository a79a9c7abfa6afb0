"""Ranks as threads of one process, and a diary that writes straight into a journal: the collective run without Ray."""

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cluster.checkpoint import Checkpoint
from cluster.code_version import code_version
from cluster.journal import Journal
from cluster.plan import StepRecord, TrainingPlan
from cluster.replica import Replica

TIMEOUT_S = 60.0


class Meeting:
    """Where threads wait for each other and see what each brought."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=TIMEOUT_S)
        self.brought: list = [None] * size


class ThreadRing:
    """One thread's view of a `Meeting`."""

    def __init__(self, meeting: Meeting, index: int) -> None:
        self._meeting, self.index = meeting, index

    @property
    def size(self) -> int:
        return self._meeting.size

    def gather(self, value):
        self._meeting.brought[self.index] = value
        self._meeting.barrier.wait()
        values = list(self._meeting.brought)
        self._meeting.barrier.wait()
        return values

    def share(self, value):
        return self.gather(value)[0]

    def total(self, vector: np.ndarray) -> np.ndarray:
        gradient, *others = self.gather(vector)
        for other in others:
            gradient = gradient + other
        return gradient


class Drifting(ThreadRing):
    """The last rank's sums are a little different, as on another kind of machine."""

    def total(self, vector: np.ndarray) -> np.ndarray:
        return super().total(vector) * np.float32(1 + 1e-6 * (self.index == self.size - 1))


class DirectDiary:
    """Writes into a `Journal` of this process."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.is_stopping = False

    def add(self, record: StepRecord) -> None:
        self.is_stopping |= self._journal.add([record])

    def save(self, checkpoint: Checkpoint) -> None:
        self.is_stopping |= self._journal.save(checkpoint)

    def fail(self, error: Exception) -> None:
        self._journal.fail(error)


def run_replicas(
    plan: TrainingPlan,
    journal: Journal,
    size: int,
    ring: Callable[[Meeting, int], ThreadRing] = ThreadRing,
    builders: dict[int, Callable] | None = None,
    code: str | None = None,
) -> None:
    """All ranks from the journal's newest checkpoint to their end; `builders` replace some ranks' computations.

    `code` is what the run was started with; None is this.
    """
    start = journal.begin()
    assert start is not None
    meeting = Meeting(size)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        mine = replace(plan, build_gradient=(builders or {}).get(index, plan.build_gradient))
        try:
            Replica(mine, start, ring(meeting, index), DirectDiary(journal), code or code_version()).run()
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error
