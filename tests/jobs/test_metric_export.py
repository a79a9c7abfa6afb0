"""What Prometheus finds at a Ray node's metrics endpoint is what `metrics.jsonl` has."""

import json
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from tiny_runs import TINY

from cluster.metric_export import MetricExport
from cluster.metric_names import EXPORTED, scraped_name
from jobs.cli import main

SMALL = [word for word in TINY if "num-workers" not in word]
_SCRAPED_WITHIN_S = 60.0


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


@pytest.mark.ray
def test_a_scrape_sees_the_names_and_values_of_metrics_jsonl(ray_cluster: None, workplace: Path):
    words = ["--cluster.num-workers=1", "--train.num-steps=6", "--out=gemäß"]
    assert main(["train", "two-modes", *SMALL, *words]) == 0
    rows = [json.loads(line) for line in (workplace / "gemäß" / "metrics.jsonl").read_text().splitlines()]
    expected = {}
    for name, metric in EXPORTED.items():
        values = [row[name] for row in rows if name in row]
        value = sum(values) if metric.kind == "count" else next(iter(values[::-1]), 0.0)
        if name in rows[-1] and not (metric.kind == "count" and value == 0):
            expected[scraped_name(metric)] = value
    assert {"ray_mcb_train_nll", "ray_mcb_cluster_workers", "ray_mcb_server_megabytes_total"} <= set(expected)
    deadline = time.monotonic() + _SCRAPED_WITHIN_S
    found: dict[str, float] = {}
    while found.keys() != expected.keys() and time.monotonic() < deadline:
        time.sleep(0.5)
        found = {
            name: value
            for (name, *labels), value in scrape().items()
            if labels == [r"two-modes/gem\xe4\xdf", "two-modes"]
        }
    assert found == pytest.approx(expected)


def test_without_ray_nothing_is_told_and_ray_is_not_imported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "ray")
    MetricExport("run", "recipe").add({"train/nll": 1.0})
    assert "ray" not in sys.modules
