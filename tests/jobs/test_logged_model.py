import numpy as np
import pyarrow.parquet as pq

from jobs.building.objects import build_source
from jobs.models.logged import example, signature
from jobs.settings.tree import CurveTasks, RegressionTasks, Settings


def test_the_example_of_measured_curves_holds_points_of_the_file(curves_file):
    settings = Settings(tasks=CurveTasks(path=str(curves_file), num_query=3))
    rows = example(build_source(settings, "test"))
    assert list(rows.columns) == ["task", "set", "x1", "x2", "y"]
    assert rows.groupby(["task", "set"]).size().tolist() == [3, 10, 3, 10]
    measured = pq.read_table(curves_file).to_pandas()
    support = rows[rows["set"] == "support"].astype({"x1": float, "y": float})
    for _, point in support.iterrows():
        distance = np.hypot(measured["x1"] - point["x1"], measured["y"] - point["y"])
        assert distance.min() < 1e-3  # rounded to five digits
    assert {row["y"] for row in rows.to_dict("records") if row["set"] == "query"} == {None}


def test_the_signature_names_the_columns_of_the_example():
    source = build_source(Settings(tasks=RegressionTasks()), "test")
    inputs = signature(source).inputs
    assert inputs is not None
    optional = {"task", "family"}
    assert set(inputs.input_names()) == set(example(source).columns) | {"family"}
    assert {column.name for column in inputs.inputs if not column.required} == optional
    params = signature(source).params
    assert params is not None and [(one.name, one.default) for one in params] == [("level", 0.9)]
