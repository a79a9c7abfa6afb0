"""How MLflow's page shows the experiment: as model training, with the columns that tell runs apart."""

import json

VIEW = "mcb"  # the key of the saved view, as it is in the page's address
_METRICS = ("test/nll", "test/mse", "validation/nll", "train/nll", "speed/tasks_per_s", "cluster/restarts")
_PARAMS = ("modes.kind", "modes.num_modes", "inference.kind")


def experiment_tags() -> dict[str, str]:
    """Tags that MLflow's page reads: the kind of the experiment, and a view of it under the key `VIEW`.

    MLflow writes the second itself when somebody shares a view; a page that does not know it shows its own columns.
    """
    columns = [f"metrics.`{name}`" for name in _METRICS] + [f"params.`{name}`" for name in _PARAMS]
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps({"selectedColumns": columns}),
    }
