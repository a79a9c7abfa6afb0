import json
import math
import re
import socket
import sys
from ipaddress import ip_address
from types import SimpleNamespace

import pytest
import torch

from cluster.experiment_view import VIEW, experiment_tags
from cluster.metric_names import entry
from jobs.arguments import UiOptions
from jobs.cli import main
from jobs.evaluation.report import new_console, print_results, with_half_width
from jobs.runs.ui import open_ui, server_command
from jobs.settings.file import flatten
from jobs.settings.recipes import recipe
from mcb.limits import load_reference


def test_limits_are_made_again_for_the_first_test_tasks(workplace, capsys):
    assert main(["limits", "two-modes", "--out", "made", "--num-tasks", "6", "--json", "limits.json"]) == 0
    made, shipped = load_reference("two-modes", workplace / "made"), load_reference("two-modes")
    torch.testing.assert_close(made.log_density, shipped.log_density[:6], rtol=0, atol=2e-3)
    torch.testing.assert_close(made.mean, shipped.mean[:6], rtol=0, atol=2e-3)
    figures = json.loads((workplace / "limits.json").read_text())
    assert figures["nll"] == pytest.approx(made.nll.mean().item(), rel=1e-6)
    assert figures["nll_ci"] == pytest.approx(1.96 * made.nll.std().item() / math.sqrt(6), rel=1e-5)
    assert {"mse", "mse_ci", "mode_accuracy", "mode_accuracy_ci"} <= set(figures)
    assert "6 tasks, written to made/two-modes.npz" in capsys.readouterr().out


def test_ui_serves_the_store_with_one_process():
    assert server_command("127.0.0.1", 5001) == [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "5001", "--workers", "1")
    ]


def test_ui_refuses_a_port_that_is_taken(workplace, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["ui", "--port", str(port), "--no-browser"]) == 1
    assert f"port {port} is in use: give another with --port" in capsys.readouterr().err


@pytest.mark.parametrize(("tags", "view"), [(experiment_tags(), "&viewStateShareKey=mcb"), ({}, "")])
def test_ui_of_a_server_that_runs_elsewhere_is_its_address_with_the_view_if_it_has_it(monkeypatch, capsys, tags, view):
    class Client:
        def get_experiment_by_name(self, name):
            return SimpleNamespace(experiment_id="7", tags=tags)

    monkeypatch.setattr("jobs.runs.ui.open_store", lambda uri: Client())
    open_ui(UiOptions(tracking_uri="http://tracking:5000/", browser=False))
    assert f"http://tracking:5000/#/experiments/7/runs?workflowType=machine_learning{view} " in capsys.readouterr().out


def test_ui_expands_the_variables_of_a_store_once_and_names_it_by_them(monkeypatch, capsys):
    class Client:
        def get_experiment_by_name(self, name):
            return None

    asked: list[str] = []
    monkeypatch.setattr("jobs.runs.ui.open_store", lambda uri: asked.append(uri) or Client())
    monkeypatch.setenv("STORE", "http://mcb:a$b@tracking:5000")
    open_ui(UiOptions(tracking_uri="$STORE", browser=False))
    assert asked == ["$STORE"]
    assert "http://mcb:***@tracking:5000 " in capsys.readouterr().out


def test_ui_listens_on_the_loopback_interface_unless_told_otherwise():
    assert ip_address(UiOptions().host).is_loopback


def test_the_views_columns_are_metrics_and_settings_that_runs_have():
    view = json.loads(experiment_tags()[f"mlflow.sharedViewState.{VIEW}"])
    columns = [re.fullmatch(r"(metrics|params)\.`(.+)`", column) for column in view["selectedColumns"]]
    assert all(columns)
    names = {kind: [column[2] for column in columns if column and column[1] == kind] for kind in ("metrics", "params")}
    assert names["metrics"] and all(entry(name) for name in names["metrics"])
    assert names["params"] and set(names["params"]) <= set(flatten(recipe("five-modes").model_dump(mode="json")))


def test_half_widths_are_shown_in_the_unit_of_the_figure():
    figures = {"nll": 0.61234, "nll_ci": 0.0049, "coverage_90": 0.9012, "coverage_90_ci": 0.004, "ari": 0.5}
    shown = [with_half_width(figures, name) for name in ("nll", "coverage_90", "ari", "nmi")]
    assert shown == ["0.612 ± 0.005", "90.1 ± 0.4 %", "0.500", ""]


def test_the_table_sets_the_run_beside_the_bayes_limit(capsys):
    bayes = {"nll": 0.6, "nll_ci": 0.01, "mse": 0.5, "mse_ci": 0.1, "num_tasks": 4000}
    own = {"nll": 0.61, "nll_ci": 0.01, "mse": 0.52, "mse_ci": 0.1, "num_tasks": 20000}
    beside = {"excess_nll": 0.011, "excess_nll_ci": 0.001, "mse_ratio": 1.04, "mse_ratio_ci": 0.01}
    figures = {**own, **beside, "bayes": bayes, "modes": {"linear": {"nll": 0.3}}}
    print_results(new_console(), figures, "five-modes")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "20,000 tasks Bayes-optimal, 4,000 tasks the run against it" in lines
    assert "NLL, nats per query point 0.610 ± 0.010 0.600 ± 0.010 + 0.011 ± 0.001" in lines
    assert "MSE 0.520 ± 0.100 0.500 ± 0.100 × 1.040 ± 0.010" in lines
    assert "linear 0.300" in lines
