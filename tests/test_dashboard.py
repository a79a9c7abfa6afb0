"""The Grafana dashboard: a dashboard's form, and no query of a metric that is not exported."""

import itertools
import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from cluster.metric_names import EXPORTED, scraped_name

GRAFANA = Path(__file__).parents[1] / "infra" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "mcb.json").read_text())
PANELS = DASHBOARD["panels"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
SCRAPED = {scraped_name(metric): name for name, metric in EXPORTED.items()}
GRAFANA_UNITS = {"none", "s", "MBs"}


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """The series that an expression asks for."""
    found, waiting = [], [promql_parser.parse(expression.replace("$__rate_interval", "40s"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
            continue
        for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
            child = getattr(node, name, None)
            if child is not None and not isinstance(child, str):
                waiting.append(child)
        waiting += getattr(node, "args", [])
    return found


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_exported_metrics_of_the_chosen_runs(expression):
    asked = selectors(expression)
    assert asked
    for selector in asked:
        assert selector.name in SCRAPED
        labels = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
        assert labels == {"recipe": "$recipe", "run": "$run"}
    for counter in (name for name in SCRAPED if name.endswith("_total") and name in expression):
        assert re.search(rf"(rate|increase)\({counter}\b", expression)


def test_what_is_to_be_watched_is_on_a_panel():
    shown = {SCRAPED[str(selector.name)] for expression in expressions() for selector in selectors(expression)}
    assert shown >= {
        "speed/tasks_per_s",
        "train/nll",
        "staleness/mean",
        "staleness/max",
        "server/refused_pushes",
        "speed/compute_s",
        "speed/communication_s",
        "cluster/restarts",
        "cluster/workers",
        "server/queue_length",
    }


def test_a_descriptions_metrics_are_those_of_its_panel():
    for panel in PANELS:
        asked = {SCRAPED[str(selector.name)] for target in panel["targets"] for selector in selectors(target["expr"])}
        told = set(re.findall(r"\b[a-z]+/[a-z_]+\b", panel["description"])) & set(EXPORTED)
        assert asked <= told, panel["title"]


def test_panels_have_a_form_that_grafana_takes_and_do_not_overlap():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        place = panel["gridPos"]
        assert panel["type"] in ("stat", "timeseries") and panel["title"] and panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"] in GRAFANA_UNITS
        assert place["x"] >= 0 and place["w"] > 0 and place["x"] + place["w"] <= 24
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        assert all(
            one["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            for one in panel["targets"]
        )
    cells = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + row)
        for panel in PANELS
        for column, row in itertools.product(range(panel["gridPos"]["w"]), range(panel["gridPos"]["h"]))
    ]
    assert len(set(cells)) == len(cells)


def test_the_dashboard_is_one_and_its_variables_ask_for_an_exported_metric():
    assert {"uid", "title", "schemaVersion", "time", "templating", "panels"} <= set(DASHBOARD)
    assert isinstance(DASHBOARD["schemaVersion"], int) and DASHBOARD["uid"] and DASHBOARD.get("id") is None
    assert VARIABLES["datasource"]["type"] == "datasource" and VARIABLES["datasource"]["query"] == "prometheus"
    for name in ("recipe", "run"):
        asked = re.fullmatch(r"label_values\((\w+)(\{.*\})?, (\w+)\)", VARIABLES[name]["query"]["query"])
        assert asked is not None and asked[1] in SCRAPED and asked[3] == name
        assert VARIABLES[name]["multi"] and VARIABLES[name]["includeAll"]


def test_provisioning_names_one_prometheus_and_the_folder_of_dashboards():
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"], source["access"]) == ("prometheus", True, "proxy")
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "mcb.yml").read_text())["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/var/lib/grafana/dashboards")
