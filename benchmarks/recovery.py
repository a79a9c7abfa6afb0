"""How long a run stands still when a part of it is killed by SIGKILL."""

import logging
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from cluster.plan import StepRecord
from cluster.training import run_meta_training
from jobs.building.objects import build_plan
from jobs.settings.tree import Settings

KILL_AT = 12  # meta-steps done; those before tell what a meta-step usually takes


class Scenario(NamedTuple):
    """Who is killed (the class of a Ray actor), and what the run has."""

    victim: str
    num_workers: int
    num_slices: int
    num_ranks: int = 1


SCENARIOS = (
    Scenario("Worker", 1, 1),
    Scenario("Worker", 2, 1),
    Scenario("Rank", 1, 1, 2),
    Scenario("Server", 2, 1),
    Scenario("Server", 2, 2),
    Scenario("Slice", 2, 2),
)


class Noticed(logging.Handler):
    """When the supervisor first said that something died."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.at: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Note the time of the first warning."""
        self.at = self.at or time.monotonic()


class Successor(threading.Thread):
    """When another process of the victim's class was there."""

    def __init__(self, class_name: str) -> None:
        super().__init__(daemon=True)
        self._class_name, self._before = class_name, {process.pid for process in processes(class_name)}
        self.at: float | None = None

    def run(self) -> None:
        """Look every 20 ms."""
        while not {process.pid for process in processes(self._class_name)} - self._before:
            time.sleep(0.02)
        self.at = time.monotonic()


def recovery(settings: Settings, scenario: Scenario) -> dict[str, str | int | float | None]:
    """Kill once; seconds until it was noticed, from then until another process was there, and of standing still.

    The run stood still for as long as two more meta-steps took, less two usual ones: the first of the two may have been
    nearly done when the kill came, the second was not yet begun.
    """
    at: dict[int, float] = {}
    killed_at: list[float] = []
    successors: list[Successor] = []
    noticed = Noticed()
    logger = logging.getLogger("cluster.supervisor")

    def on_step(record: StepRecord) -> None:
        at[record.version] = time.monotonic()
        if record.version == KILL_AT:
            successors.append(Successor(scenario.victim))
            killed_at.append(time.monotonic())
            processes(scenario.victim)[-1].kill()
            successors[0].start()

    logger.addHandler(noticed)
    try:
        with tempfile.TemporaryDirectory() as folder:
            plan = build_plan(_placed(settings, scenario), Path(folder), "", resume=False)
            run_meta_training(plan, on_step, lambda: KILL_AT + 2 in at and successors[0].at is not None)
    finally:
        logger.removeHandler(noticed)
    usual_s = statistics.median(at[version + 1] - at[version] for version in range(3, KILL_AT))
    return {
        **scenario._asdict(),
        "step_ms": round(1e3 * usual_s, 1),
        "noticed_s": _between(killed_at[0], noticed.at),
        "replaced_s": _between(noticed.at, successors[0].at),
        "stood_still_s": round(at[KILL_AT + 2] - killed_at[0] - 2 * usual_s, 3),
    }


def processes(class_name: str) -> list[psutil.Process]:
    """This run's processes of an actor class, by age."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = "".join(process.cmdline()[:1])
        except psutil.Error:  # it ended meanwhile
            continue
        if title.split(".")[0].strip() == f"ray::{class_name}":
            found.append(process)
    return sorted(found, key=lambda process: process.create_time())


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 3)


def _placed(settings: Settings, scenario: Scenario) -> Settings:
    machines = {
        "num_workers": scenario.num_workers,
        "num_slices": scenario.num_slices,
        "ranks_per_worker": scenario.num_ranks,
    }
    cluster = settings.cluster.model_copy(update=machines)
    train = settings.train.model_copy(update={"num_steps": 10 * KILL_AT, "num_shards": 4, "checkpoint_every": 5})
    optimizer = settings.optimizer.model_copy(update={"name": "adam"})  # one that slices can share out
    return settings.model_copy(update={"cluster": cluster, "train": train, "optimizer": optimizer})
