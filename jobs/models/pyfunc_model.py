"""The model that MLflow loads: this file is kept beside the checkpoint and run there (models from code, no pickle)"""

from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from cluster.errors import UserError
from jobs.models.source import load_predictor
from jobs.models.task_frame import answer


class TaskModel(PythonModel):
    """Adapts to the support rows of each task sent and answers its query rows; see `jobs.models.task_frame`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build the learner from the checkpoint, whose settings it holds."""
        self._predictor = load_predictor(context.artifacts["checkpoint"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The answers, with intervals of probability `params["level"]`.

        Raises `MlflowException`, which a server passes on to its caller, for a table that cannot be answered.
        """
        try:
            return answer(self._predictor, model_input, **(params or {}))
        except (UserError, ValueError) as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


set_model(TaskModel())
