"""Places server and workers, watches them, replaces what dies, and passes on every meta-step."""

import logging
from collections.abc import Callable, Sequence
from typing import cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError

from cluster.checkpoint import Checkpoint
from cluster.code_version import SameCode, code_version
from cluster.coordinator import Progress
from cluster.embedded import ray_cluster
from cluster.errors import ClusterError, last_line
from cluster.losses import DEATHS, LOSSES, never_began
from cluster.placement import bundles, num_units, shortage, total
from cluster.places import Places
from cluster.plan import StepRecord, TrainingPlan
from cluster.roster import Roster, Verdict
from cluster.server import Address, Server
from cluster.slice_actors import SliceActors
from cluster.unit import LoopEnd, Unit, start_unit

_POLL_S = 0.25  # how soon a signal is noticed
_logger = logging.getLogger(__name__)


class ServerLost(Exception):
    """The server is gone."""


class SliceLost(Exception):
    """The server lives, but a slice of it is gone."""


def train_with_workers(
    plan: TrainingPlan,
    start: Checkpoint,
    on_step: Callable[[StepRecord], None],
    should_stop: Callable[[], bool],
    after_ray_starts: Callable[[], None],
) -> Checkpoint:
    """Run the remaining meta-steps over Ray from `start`, the newest on disk; returns the last, which is on disk too.

    A stop abandons the meta-step at hand; a few more may be done before it reaches the server. `after_ray_starts` is
    called once Ray has taken the process's signal handlers. Raises `UserError` and what the shard computation raises.
    """
    num_cpus = int(total(bundles(plan) * num_units(plan))["CPU"])
    with ray_cluster(plan.checkpoint_dir, num_cpus, len(plan.parameters)):
        after_ray_starts()
        if should_stop():
            return start
        fleet = Fleet(plan)
        try:
            return fleet.run(on_step, should_stop)
        except RayTaskError as error:
            raise error.cause or error from error
        finally:
            fleet.stop()


class Fleet:
    """The actors of one run."""

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan, self._version, self._num_names, self._num_restarts = plan, 0, 0, 0
        self._slices = SliceActors(plan.server)
        self._seen = 0  # the meta-step that this server told of last; after a restore it is below `_version`
        self._roster = Roster(
            num_units(plan) + len(self._slices.actors),
            plan.min_to_start,
            plan.min_to_go_on,
            plan.start_timeout_s,
            plan.regrow_timeout_s,
        )
        self._places = Places(plan)
        self._address = start_server(plan, self._places, 0, self._slices.actors)
        self._progress = self._server.progress.remote(self._seen)
        self._units = [start_unit(plan, self._places.take()) for _ in range(num_units(plan))]
        self._homeless = list(self._units)

    def run(self, on_step: Callable[[StepRecord], None], should_stop: Callable[[], bool]) -> Checkpoint:
        """Watch until the run is over or stopped; what is lost is replaced."""
        loss: ServerLost | SliceLost | None = None
        while True:
            try:
                if loss is not None:
                    self._go_back(loss, on_step)
                self._watch(on_step, should_stop)
                records, last = self._ask(self._server.finish.remote(self._version))
            except (ServerLost, SliceLost) as found:
                loss = found
                continue
            self._pass_on(records, on_step)
            return last

    def stop(self) -> None:
        """End every actor."""
        for unit in self._units:
            unit.stop()
        ray.kill(self._server)
        self._slices.stop()

    @property
    def _server(self) -> ActorHandle:
        return self._address.server

    def _watch(self, on_step: Callable[[StepRecord], None], should_stop: Callable[[], bool]) -> None:
        """Hear everybody until the run is over or stopped; raises `ServerLost`, `SliceLost`, `ClusterError`."""
        while not should_stop():
            loops = {loop: unit for unit in self._units for loop in unit.loops}
            placed = {unit.placed: unit for unit in self._homeless}
            heard = [self._progress, *self._slices.watches, *loops, *placed]
            ready, _ = ray.wait(heard, num_returns=1, timeout=_POLL_S)
            for reference in ready:
                if reference in self._slices.watches:
                    raise SliceLost
                if reference in loops:
                    self._see_off(loops[reference], loops[reference].ended(reference))
                elif reference in placed:
                    self._settle(placed[reference])
                else:
                    progress: Progress = self._ask(reference)
                    self._pass_on(progress.records, on_step)
                    if progress.is_over:
                        return
                    self._progress = self._server.progress.remote(self._seen)
            self._require_workers()

    def _settle(self, unit: Unit) -> None:
        """A unit has a place: it computes from now on, all together once there are enough to begin."""
        self._homeless.remove(unit)
        had_begun = self._roster.has_begun
        self._roster.place()
        if self._roster.has_begun:
            for other in [unit] if had_begun else self._settled():
                self._employ(other)

    def _see_off(self, unit: Unit, end: LoopEnd | None) -> None:
        """A unit's loop ended: another unit if this one died, another name if it lost its server.

        A server may say that the run is over and die before its last checkpoint is there: the next one needs the unit.
        """
        if end in (LoopEnd.DEAD, LoopEnd.STARVED):
            self._bury(unit)
            self._require_worth("a worker")
            cause = " for want of memory on its node" if end is LoopEnd.STARVED else ""
            _logger.warning("%s died%s after meta-step %d: another takes its place", unit.name, cause, self._version)
            self._units.append(start_unit(self._plan, self._places.take()))
            self._homeless.append(self._units[-1])
            self._num_restarts += 1
            self._ask(self._server.release.remote(unit.name))
        elif end is LoopEnd.CUT_OFF or (end is LoopEnd.OVER and unit.address not in (None, self._address)):
            self._ask(self._server.release.remote(unit.name))
            self._employ(unit)

    def _bury(self, unit: Unit) -> None:
        self._units.remove(unit)
        unit.stop()
        if unit in self._homeless:
            self._homeless.remove(unit)
        else:
            self._roster.lose()

    def _employ(self, unit: Unit) -> None:
        unit.follow(f"worker-{self._num_names}", self._address)
        self._num_names += 1

    def _go_back(self, loss: ServerLost | SliceLost, on_step: Callable[[StepRecord], None]) -> None:
        """Replace what is gone, and go on from the newest checkpoint.

        Who lives of server and slices stays, as another generation; units join it when they find that theirs is over.
        """
        self._roster.lose_server()
        victim = "the parameter server" if isinstance(loss, ServerLost) else "a slice of the parameter server"
        self._require_worth(victim)
        _logger.warning("%s died after meta-step %d: another goes on from the newest checkpoint", victim, self._version)
        self._num_restarts += 1
        self._slices.replace_dead(one_is=isinstance(loss, SliceLost))
        generation, slices = self._address.generation + 1, self._slices.actors
        if isinstance(loss, ServerLost):
            ray.kill(self._server)
            self._address = start_server(self._plan, self._places, generation, slices)
        else:
            self._pass_on(self._ask(self._server.restart.remote(generation, slices, self._seen)), on_step)
            self._address = Address(self._server, generation)
        self._seen = 0
        self._progress = self._server.progress.remote(self._seen)
        if self._roster.has_begun:
            for unit in self._settled():
                if not unit.loops:
                    self._employ(unit)

    def _settled(self) -> list[Unit]:
        return [unit for unit in self._units if unit not in self._homeless]

    def _require_worth(self, victim: str) -> None:
        """Raise `ClusterError` when nothing gets done between deaths."""
        if not self._roster.is_worth_replacing:
            raise ClusterError(
                f"{victim} died after meta-step {self._version}, and {self._roster.complaint}: look for the cause in "
                "Ray's logs, then resume"
            )

    def _require_workers(self) -> None:
        """Raise `ClusterError`, with the run saved, when too few workers have had a place for too long."""
        if self._roster.verdict() is not Verdict.GIVE_UP:
            return
        if self._roster.has_begun:
            self._ask(self._server.finish.remote(self._version))
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        free, roster = ray.available_resources(), self._roster
        asked = shortage(self._plan, roster.num_placed, roster.num_needed, nodes, free, roster.has_begun)
        raise ClusterError(f"{asked} (waited {self._roster.short_s:.0f} s)")

    def _ask(self, reference: ray.ObjectRef):
        """The server's answer; raises `ServerLost` if it died, `SliceLost` if it ran into a slice's death."""
        try:
            return ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, LOSSES):
                raise SliceLost from error
            raise
        except DEATHS as error:
            if never_began(error):
                raise ClusterError(f"the parameter server could not start: {last_line(error)}") from error
            raise ServerLost from error

    def _pass_on(self, records: list[StepRecord], on_step: Callable[[StepRecord], None]) -> None:
        """Show each meta-step once; a new server also tells of those that it did again."""
        for record in records:
            self._seen = record.version
            self._roster.step(is_new=record.version > self._version)
            if record.version > self._version:
                self._version = record.version
                on_step(record._replace(num_workers=self._roster.num_placed, restarts=self._num_restarts))


def start_server(plan: TrainingPlan, places: Places, generation: int, slices: Sequence[ActorHandle]) -> Address:
    """The server with these slices: it reads the newest checkpoint of the plan's folder."""
    options = ray.remote(Server).options(
        num_cpus=0,
        scheduling_strategy=places.of_server,
        max_concurrency=plan.server.max_calls,  # Ray's own 1,000 may all wait
    )
    server = options.remote(SameCode(code_version()), plan.server, generation, slices)
    return Address(cast(ActorHandle, server), generation)
