"""Where server and units go: to places of their own, or into the placement group that the run itself was put in."""

from collections.abc import Callable
from typing import NamedTuple

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from cluster.placement import bundles, fits, num_units
from cluster.plan import TrainingPlan


class Place(NamedTuple):
    """Bundles of a placement group for the actors of one unit, and how they are given back."""

    group: PlacementGroup
    first_bundle: int
    give_back: Callable[[], object]

    def strategy(self, index: int) -> PlacementGroupSchedulingStrategy:
        """What places the unit's actor `index`."""
        return PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=self.first_bundle + index)


class Places:
    """The places of a run's actors.

    A run that was started inside a placement group made for it, as a trial of a search is, takes the group's bundles in
    order, `bundles(plan)` for each unit. Any other run, inside some other group as well, reserves a group on one node
    for every unit. Ray puts each on the node that has most left, and so spreads units over nodes.
    """

    def __init__(self, plan: TrainingPlan) -> None:
        self._bundles, around = bundles(plan), get_current_placement_group()
        self._around = around if around is not None and fits(plan, around.bundle_specs) else None
        self._free = [unit * len(self._bundles) for unit in range(num_units(plan))]

    @property
    def of_server(self) -> NodeAffinitySchedulingStrategy | PlacementGroupSchedulingStrategy:
        """What places the server: this node if it lasts, or the first bundle, of which it takes nothing."""
        if self._around is not None:
            return PlacementGroupSchedulingStrategy(self._around, placement_group_bundle_index=0)
        return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)

    def take(self) -> Place:
        """The place of another unit; its group may have no resources yet."""
        if self._around is None:
            group = placement_group(self._bundles, strategy="STRICT_PACK")
            return Place(group, 0, lambda: remove_placement_group(group))
        first = self._free.pop(0)
        return Place(self._around, first, lambda: self._free.insert(0, first))
