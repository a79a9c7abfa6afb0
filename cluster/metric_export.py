"""A run's metrics for Prometheus: told to Ray, which serves them at the metrics endpoint of the driver's node."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cluster.metric_names import EXPORTED, MetricName, prometheus_name

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge


class MetricExport:
    """Tells Ray the numbers of each meta-step under `cluster.metric_names.prometheus_name`; nothing without Ray.

    Values and totals are gauges, which show the newest meta-step; counts are counters. Every series has the labels
    `run` and `recipe`. Ray collects them every ten seconds, so a scrape sees some meta-steps, and all counts.
    It drops a gauge that it is not told for twice that time, so each meta-step tells those of earlier ones again.
    """

    def __init__(self, run: str, recipe: str) -> None:
        self._tags = {"run": _ascii(run), "recipe": _ascii(recipe)}
        self._latest: dict[str, float] = {}
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Take a meta-step's numbers in; those that are not exported are passed over."""
        if not _is_ray_running():
            return
        told = {name: value for name, value in values.items() if name in EXPORTED}
        counts = {name: value for name, value in told.items() if EXPORTED[name].kind == "count"}
        self._latest |= {name: value for name, value in told.items() if name not in counts}
        for name, value in self._latest.items():
            self._gauge(EXPORTED[name]).set(value)
        for name, value in counts.items():
            if value > 0:  # Ray refuses to count nothing
                self._counter(EXPORTED[name]).inc(value)

    def _gauge(self, metric: MetricName) -> "Gauge":
        if metric.name not in self._gauges:
            from ray.util.metrics import Gauge

            made = Gauge(prometheus_name(metric.name), _description(metric), tuple(self._tags))
            self._gauges[metric.name] = made.set_default_tags(self._tags)
        return self._gauges[metric.name]

    def _counter(self, metric: MetricName) -> "Counter":
        if metric.name not in self._counters:
            from ray.util.metrics import Counter

            made = Counter(prometheus_name(metric.name), _description(metric), tuple(self._tags))
            self._counters[metric.name] = made.set_default_tags(self._tags)
        return self._counters[metric.name]


def _description(metric: MetricName) -> str:
    return _ascii(f"{metric.meaning}, in {metric.unit}" if metric.unit else metric.meaning)


def _ascii(text: str) -> str:
    """What Ray takes: other characters as their numbers."""
    return text.encode("ascii", "backslashreplace").decode()


def _is_ray_running() -> bool:
    """Whether this process is part of a Ray cluster; Ray is not imported to find out."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()
