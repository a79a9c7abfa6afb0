import json

import pytest
from mlflow.tracking import MlflowClient


@pytest.mark.ray
@pytest.mark.slow
def test_a_recipe_under_the_collective_strategy_is_recorded_as_under_the_server(ray_cluster, train, workplace):
    words = ("--train.checkpoint-every=2", "--optimizer.schedule=constant")
    alone = train("--out=alone", *words)
    together = train("--out=together", "--cluster.strategy=collective", "--cluster.num-workers=2", *words)
    for name in ("num_steps", "num_tasks", "num_refused"):
        assert together[name] == alone[name]
    assert together["evaluation"]["nll"] == pytest.approx(alone["evaluation"]["nll"], rel=1e-4)
    rows = {
        name: [json.loads(line) for line in (workplace / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("alone", "together")
    }
    assert [row["step"] for row in rows["together"]] == [1, 2, 3, 4]
    for mine, its in zip(rows["together"], rows["alone"], strict=True):
        assert set(mine) == set(its)
        assert mine["train/nll"] == pytest.approx(its["train/nll"], rel=1e-5)
    client = MlflowClient(f"sqlite:///{workplace / 'runs' / 'mlflow.db'}")
    assert [point.step for point in client.get_metric_history(together["run_id"], "train/nll")] == [1, 2, 3, 4]
