"""The command line of `mcb predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.arguments import File


@dataclass(frozen=True)
class PredictOptions:
    """Adapt a trained model to a task's few points and predict at others, with intervals and probabilities of modes.

    Both files have a header: x, or x1, x2, ... where the model has several inputs, and y; y may be left out of the
    query points. The predictions are written as CSV to standard output, or to --out; a summary goes to standard error.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run's folder, a checkpoint file, runs:/RUN_ID, models:/NAME@ALIAS or models:/NAME/VERSION."""
    support: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SUPPORT.csv")]
    """The task's known points."""
    query: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="QUERY.csv")]
    """The points to predict."""
    level: float = 0.9
    """Probability of the interval that is written for each point, inside (0, 1)."""
    family: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Of measured curves: the family whose units the files have; weighed by Bayes' rule if it is not named."""
    out: File = None
    """Write the predictions here, not to standard output."""
    plot: File = None
    """Draw the predictive distribution over the first input, with the support points (.png, .pdf, .svg)."""
    json: File = None
    """Write predictions, probabilities of all modes and the evidence here."""
    seed: int = 0
    """Of the noise of inference methods that sample."""
    tracking_uri: Annotated[str | None, tyro.conf.arg(metavar="URI")] = None
    """MLflow store of runs:/ and models:/; MLFLOW_TRACKING_URI or the SQLite file in runs/ by default."""
    debug: bool = False
    """Show tracebacks."""
