"""What Prometheus finds at a Ray node's metrics endpoint is what `metrics.jsonl` has."""

import json
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from tiny_runs import TINY

from cluster.metric_export import MetricExport
from cluster.metric_names import EXPORTED, scraped_name
from jobs.cli import main

SMALL = [word for word in TINY if "num-workers" not in word]
COUNTED = {name for name, metric in EXPORTED.items() if metric.kind == "count"}
_SCRAPED_WITHIN_S = 60.0
_LABELS = [r"two-modes/gem\xe4\xdf", "two-modes"]


def scrape() -> dict[tuple[str, str, str], float]:
    """Of every node's endpoint the series with our labels: value by name, run and recipe."""
    pages = [
        urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10)
        for node in ray.nodes()
        if node["Alive"]
    ]
    return {
        (sample.name, sample.labels["run"], sample.labels["recipe"]): sample.value
        for page in pages
        for family in text_string_to_metric_families(page.read().decode())
        for sample in family.samples
        if {"run", "recipe"} <= set(sample.labels)
    }


@contextmanager
def scraping() -> Iterator[dict[str, set[float]]]:
    """All values that scrapes inside the block have seen of our run, by name."""
    seen: defaultdict[str, set[float]] = defaultdict(set)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            for (name, *labels), value in scrape().items():
                if labels == _LABELS:
                    seen[name].add(value)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.ray
def test_scrapes_see_the_names_and_values_of_metrics_jsonl(ray_cluster: None, workplace: Path):
    words = ["--cluster.num-workers=1", "--train.num-steps=6", "--out=gemäß"]
    with scraping() as seen:
        assert main(["train", "two-modes", *SMALL, *words]) == 0
        rows = [json.loads(line) for line in (workplace / "gemäß" / "metrics.jsonl").read_text().splitlines()]
        counts = {name: sum(row[name] for row in rows) for name in rows[0] if name in COUNTED}
        expected = {scraped_name(EXPORTED[name]): total for name, total in counts.items() if total > 0}
        deadline = time.monotonic() + _SCRAPED_WITHIN_S
        while time.monotonic() < deadline and any(
            total != pytest.approx(max(seen[name], default=0)) for name, total in expected.items()
        ):
            time.sleep(0.2)
    assert "ray_mcb_server_megabytes_total" in expected
    assert {name: max(seen[name], default=0) for name in expected} == pytest.approx(expected)
    gauges = {
        name: scraped_name(metric) for name, metric in EXPORTED.items() if name not in COUNTED and name in rows[0]
    }
    assert {"train/nll", "speed/tasks_per_s", "cluster/workers", "cluster/restarts"} <= set(gauges)
    for name, scraped in gauges.items():
        assert seen[scraped] and seen[scraped] <= {row[name] for row in rows}, name


def test_without_ray_nothing_is_told_and_ray_is_not_imported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "ray")
    MetricExport("run", "recipe").add({"train/nll": 1.0})
    assert "ray" not in sys.modules
