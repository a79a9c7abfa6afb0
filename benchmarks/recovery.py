"""How long a run stands still when a part of it is killed by SIGKILL."""

import logging
import statistics
import tempfile
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


SCENARIOS = (Scenario("Worker", 1, 1), Scenario("Worker", 2, 1), Scenario("Server", 2, 1), Scenario("Slice", 2, 2))


class Noticed(logging.Handler):
    """When the supervisor first said that something died."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.at: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Note the time of the first warning."""
        self.at = self.at or time.monotonic()


def recovery(settings: Settings, scenario: Scenario) -> dict[str, str | int | float | None]:
    """Kill once; seconds until it was noticed, and until two more meta-steps were done, less two usual ones.

    The first of the two may have been nearly done when the kill came, the second was not yet begun.
    """
    at: dict[int, float] = {}
    killed_at: list[float] = []
    noticed = Noticed()
    logger = logging.getLogger("cluster.supervisor")

    def on_step(record: StepRecord) -> None:
        at[record.version] = time.monotonic()
        if record.version == KILL_AT:
            killed_at.append(time.monotonic())
            processes(scenario.victim)[-1].kill()

    logger.addHandler(noticed)
    try:
        with tempfile.TemporaryDirectory() as folder:
            plan = build_plan(_placed(settings, scenario), Path(folder), "", resume=False)
            run_meta_training(plan, on_step, lambda: KILL_AT + 2 in at)
    finally:
        logger.removeHandler(noticed)
    usual_s = statistics.median(at[version + 1] - at[version] for version in range(3, KILL_AT))
    return {
        **scenario._asdict(),
        "step_ms": round(1e3 * usual_s, 1),
        "noticed_s": None if noticed.at is None else round(noticed.at - killed_at[0], 3),
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


def _placed(settings: Settings, scenario: Scenario) -> Settings:
    machines = {"num_workers": scenario.num_workers, "num_slices": scenario.num_slices}
    cluster = settings.cluster.model_copy(update=machines)
    train = settings.train.model_copy(update={"num_steps": 10 * KILL_AT, "num_shards": 4, "checkpoint_every": 5})
    optimizer = settings.optimizer.model_copy(update={"name": "adam"})  # one that slices can share out
    return settings.model_copy(update={"cluster": cluster, "train": train, "optimizer": optimizer})
