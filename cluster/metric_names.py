"""Every metric that is recorded: its name, unit, meaning, and where it is seen; docs/metrics.md is made from this."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Kind = Literal["value", "count", "total"]
Place = Literal["metrics.jsonl", "result.json", "MLflow", "Prometheus", "terminal"]


class MetricName(NamedTuple):
    """A metric. A part of the name in capitals stands for a name that the data give.

    A `value` is of one meta-step; a `count` adds up over meta-steps; a `total` is of the run so far. MLflow has means
    over short windows, of a total the last.
    """

    name: str
    unit: str
    meaning: str
    seen: tuple[Place, ...]
    kind: Kind = "value"


_STEP: tuple[Place, ...] = ("metrics.jsonl", "MLflow", "Prometheus")
_SHOWN: tuple[Place, ...] = (*_STEP, "terminal")
_BY_MODE: tuple[Place, ...] = ("metrics.jsonl", "MLflow")
_TABLE: tuple[Place, ...] = ("result.json", "MLflow", "terminal")
_TRACKED: tuple[Place, ...] = ("MLflow",)
_SEARCH: tuple[Place, ...] = ("MLflow", "terminal")
_NATS = "nats per query point"

METRICS: tuple[MetricName, ...] = (
    MetricName("train/loss", "nats", "meta-objective, mean over the meta-batch's tasks", _STEP),
    MetricName("train/nll", _NATS, "negative log predictive density of the meta-batch's query sets", _SHOWN),
    MetricName("train/mse", "y²", "squared error of the predictive mean", _SHOWN),
    MetricName("train/MODE/nll", _NATS, "`train/nll` of the tasks of one true mode", _BY_MODE),
    MetricName("train/MODE/mse", "y²", "`train/mse` of the tasks of one true mode", _BY_MODE),
    MetricName("train/gradient_norm", "", "norm of the meta-gradient before clipping", _STEP),
    MetricName("train/learning_rate", "", "of the meta-optimiser", _STEP),
    MetricName("train/refused_steps", "meta-steps", "refused so far: loss or gradient not finite", _SHOWN, "total"),
    MetricName("speed/tasks_per_s", "tasks/s", "tasks of the meta-batch over `speed/step_s`", _SHOWN),
    MetricName("speed/step_s", "s", "time of the meta-step", _STEP),
    MetricName("speed/compute_s", "s", "longest time that one worker computed in the meta-step", _STEP),
    MetricName("speed/communication_s", "s", "the rest of `speed/step_s`: transport, waiting, the update", _STEP),
    MetricName("staleness/mean", "updates", "between the parameters of a gradient and its update, mean", _STEP),
    MetricName("staleness/max", "updates", "the same, the largest of the meta-step", _STEP),
    MetricName("server/queue_length", "gradients", "most that waited at the server at once", _STEP),
    MetricName("server/refused_pushes", "gradients", "refused because they were too stale", _STEP, "count"),
    MetricName("server/repeats", "gradients", "of a shard that was there already", _STEP, "count"),
    MetricName("server/megabytes", "MB", "gradients in and parameters out", _STEP, "count"),
    MetricName("server/waiting_s", "s", "what all workers together waited for a shard", _STEP, "count"),
    MetricName("cluster/workers", "workers", "that have a place on the cluster; 0 where the driver computes", _STEP),
    MetricName(
        "cluster/restarts", "restarts", "workers, servers and slices replaced since the command began", _STEP, "total"
    ),
    MetricName("modes/num_modes", "modes", "in use after a refresh", _SHOWN),
    MetricName("modes/silhouette", "−1 to 1", "how far apart the found modes lie", _STEP),
    MetricName("modes/stability", "≤ 1", "adjusted Rand index of the modes before and after the refresh", _STEP),
    MetricName("modes/ari", "≤ 1", "adjusted Rand index of found and true modes", _STEP),
    MetricName("modes/nmi", "0 to 1", "normalised mutual information of found and true modes", _STEP),
    MetricName("modes/purity", "0 to 1", "tasks whose true mode is the commonest of their found one", _STEP),
    MetricName("modes/accuracy", "0 to 1", "the same, the commonest mode told by other tasks", _STEP),
    MetricName("modes/accuracy_ceiling", "0 to 1", "the Bayes-optimal predictor's mode accuracy", _STEP),
    MetricName("test/nll", _NATS, "negative log predictive density on the test tasks", _TABLE),
    MetricName("test/mse", "y²", "squared error of the predictive mean, mean over tasks", _TABLE),
    MetricName("test/mse_median", "y²", "the same, median over tasks", _TABLE),
    MetricName("test/rmse", "y", "root of `test/mse`, families of curves weighted equally", _TABLE),
    MetricName("test/crps", "y", "continuous ranked probability score", _TABLE),
    MetricName("test/coverage_50", "0 to 1", "targets inside the central 50 % interval", _TABLE),
    MetricName("test/coverage_90", "0 to 1", "targets inside the central 90 % interval", _TABLE),
    MetricName("test/ari", "≤ 1", "adjusted Rand index of the likeliest codes and the true modes", _TABLE),
    MetricName("test/nmi", "0 to 1", "normalised mutual information of the same", _TABLE),
    MetricName("test/mode_accuracy", "0 to 1", "tasks whose likeliest code stands for their true mode", _TABLE),
    MetricName("test/excess_nll", _NATS, "NLL above the Bayes-optimal predictor's, same tasks", _TABLE),
    MetricName("test/mse_ratio", "", "MSE over the Bayes-optimal predictor's, same tasks", _TABLE),
    MetricName("test/num_tasks", "tasks", "that were scored", _TABLE),
    MetricName("test/num_codes_used", "codes", "that are some task's likeliest", _TABLE),
    MetricName("test/modes/MODE/nll", _NATS, "`test/nll` of the tasks of one true mode", _TABLE),
    MetricName("test/modes/MODE/mse", "y²", "`test/mse` of the tasks of one true mode", _TABLE),
    MetricName("test/bayes/nll", _NATS, "the Bayes-optimal predictor's NLL", _TABLE),
    MetricName("test/bayes/mse", "y²", "the Bayes-optimal predictor's MSE", _TABLE),
    MetricName("test/families/FAMILY/nll", _NATS, "of one family of curves; `pooled` weights them equally", _TABLE),
    MetricName("test/families/FAMILY/rmse", "y", "the same, root of the mean squared error", _TABLE),
    MetricName("test/baselines/BASELINE/FAMILY/nll", _NATS, "a baseline's NLL on one family of curves", _TABLE),
    MetricName("test/baselines/BASELINE/FAMILY/rmse", "y", "a baseline's RMSE on one family of curves", _TABLE),
    MetricName("validation/nll", _NATS, "a trial's objective, on validation tasks", _SEARCH),
    MetricName("validation/num_modes", "codes", "that are some validation task's likeliest", _SEARCH),
    MetricName("validation/seconds", "s", "that the trial has spent in meta-steps", _SEARCH),
    MetricName("best/nll", _NATS, "the best trial's last objective, with the search's run", _SEARCH),
    MetricName("best/test_nll", _NATS, "`test/nll` of the best settings, mean over fresh seeds", _SEARCH),
    MetricName("best/test_nll_spread", _NATS, "standard deviation of that over the seeds", _SEARCH),
    MetricName("system/cpu_utilization_percentage", "%", "of the driver's machine, every 10 s", _TRACKED),
    MetricName("system/system_memory_usage_megabytes", "MB", "memory in use on the driver's machine", _TRACKED),
    MetricName("system/system_memory_usage_percentage", "%", "the same as a share", _TRACKED),
    MetricName("system/largest_process_megabytes", "MB", "largest process of the driver's process tree", _TRACKED),
)
EXPORTED: dict[str, MetricName] = {metric.name: metric for metric in METRICS if "Prometheus" in metric.seen}
TOTALS = frozenset(metric.name for metric in METRICS if metric.kind == "total")

_HALF_WIDTH = "_ci"
_REFUSED = re.compile(r"[^\w -]")  # inside a part; MLflow takes no more than these, and slashes between parts


def joined(*parts: str) -> str:
    """The parts of a name, some of which come from data, as a name that MLflow takes.

    >>> joined("train", "drying at 20 °C, 5 m/s", "nll")
    'train/drying at 20 _C_ 5 m_s/nll'
    """
    return "/".join(_REFUSED.sub("_", part) or "_" for part in parts)


def prometheus_name(name: str) -> str:
    """The name under which `ray.util.metrics` is told; Ray puts `ray_` before it, and `_total` after a counter's.

    >>> prometheus_name("speed/tasks_per_s")
    'mcb_speed_tasks_per_s'
    """
    return "mcb_" + name.replace("/", "_")


def scraped_name(metric: MetricName) -> str:
    """The name that Prometheus finds at a Ray node's metrics endpoint.

    >>> scraped_name(EXPORTED["train/nll"]), scraped_name(EXPORTED["server/repeats"])
    ('ray_mcb_train_nll', 'ray_mcb_server_repeats_total')
    """
    return f"ray_{prometheus_name(metric.name)}{'_total' if metric.kind == 'count' else ''}"


def entry(name: str) -> MetricName | None:
    """The metric that `name` is of, or is the 95 % half-width of (`NAME_ci`); None if the table does not have it.

    >>> entry("train/sinusoid/nll").name, entry("test/nll_ci").name, entry("speed/guess")
    ('train/MODE/nll', 'test/nll', None)
    """
    base = name.removesuffix(_HALF_WIDTH) if name.startswith("test/") else name
    plain = next((metric for metric in METRICS if metric.name == base), None)
    return plain or next((metric for metric in METRICS if _pattern(metric.name).fullmatch(base)), None)


def table(metrics: Sequence[MetricName] = METRICS) -> str:
    """The metrics as a Markdown table."""
    rows = [f"| `{m.name}` | {m.unit} | {m.meaning} | {_where(m)} |" for m in metrics]
    return "\n".join(["| name | unit | meaning | seen in |", "|---|---|---|---|", *rows])


def _where(metric: MetricName) -> str:
    exact = {"metrics.jsonl": "`metrics.jsonl`", "result.json": "`result.json`"}
    return ", ".join(exact.get(place, place) for place in metric.seen)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile("/".join(".+" if part.isupper() else re.escape(part) for part in name.split("/")))


if __name__ == "__main__":
    print(table())
