"""docs/scaling.md takes its tables from a result of the benchmark, and the two fit together."""

import importlib
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.cost_model import Costs

ROOT = Path(__file__).parent.parent
COSTS = Costs(*[1e-4] * 12)


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("scaling")


def result() -> dict:
    placed = {"recipe": "r", "meta_batch": 10, "num_shards": 2, "megabytes": 0.1, "compute_ms": 90.0}
    alone = {**placed, "placement": "in process", "workers": 0, "step_ms": 100.0}
    point = {"meta_steps": 9, "pushes_per_s": 100.0, "megabytes_per_s": 20.0, "p50_ms": 70.0, "p99_ms": 90.0}
    spent = {"server_cpu_ms": 4.0, "slice_cpu_ms": 0.0, "worker_cpu_ms": 1.0}
    kill = {"victim": "Worker", "num_workers": 2, "num_slices": 1, "num_ranks": 1, "step_ms": 30.0}
    return {
        "cores": 2,
        "costs": asdict(COSTS),
        "efficiency": [
            {**alone, "against_in_process": 1.0, "against_1_worker": 1.1},
            {**alone, "placement": "1 worker", "workers": 1, "against_in_process": 0.9, "against_1_worker": 1.0},
        ],
        "capacity": [{"clients": 8, "megabytes": 0.1, "slices": 1, "step_ms": 80.0, **point, **spent}],
        "recovery": [
            {**kill, "noticed_s": 0.25, "replaced_s": 0.5, "stood_still_s": 1.0},
            {**kill, "noticed_s": None, "replaced_s": None, "stood_still_s": 3.0},
        ],
    }


def test_every_table_has_its_place_in_the_document_and_filling_twice_changes_nothing(scaling):
    document = (ROOT / "docs" / "scaling.md").read_text()
    tables = scaling.tables(result())
    filled = scaling.fill(document, tables)
    assert all(text in filled for text in tables.values())
    assert scaling.fill(filled, tables) == filled
    outside = filled
    for text in tables.values():
        outside = outside.replace(text + "\n", "")
    assert outside.count("<!--") == 2 * len(tables)


def test_predictions_stand_beside_measurements_with_their_errors(scaling):
    tables = scaling.tables(result())
    predicted_ms = 1e3 * (1e-4 + 1e-4 * (8 * (1e-4 + 1e-4 * 1e5) + 1e-4 * 1e5))  # latency; stretch times server
    error = f"{100 * (predicted_ms / 80 - 1):+.0f} %"
    assert f"| 8 | 0.1 | 1 | 100 | 20 | 70.0 | 90.0 | 80.0 | {predicted_ms:.1f} | {error} |" in tables["capacity"]
    assert "| r, in process | 100.0 | 90.0 | 1.00 | 1.10 | 100.0 | +0 % |" in tables["efficiency"]
    assert "| worker of 2 workers, 1 slices | 2 | 0.25 s | 0.50 s | 2.00 s | 3.00 s |" in tables["recovery"]


def test_a_document_without_the_marks_is_refused(scaling):
    with pytest.raises(ValueError, match="0 places are marked for the table 'costs'"):
        scaling.fill("no marks", {"costs": "| a |"})
