"""The options of `mcb register`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs.arguments import File


@dataclass(frozen=True)
class RegisterOptions:
    """Register the model of a run, unless the one that has the alias now is better on the same test tasks."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run's folder, or its id."""
    name: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """Name of the registered model; it is made if there is none."""
    alias: Annotated[str, tyro.conf.arg(metavar="ALIAS")] = "champion"
    """What users load it by: models:/NAME@ALIAS."""
    force: bool = False
    """Give it the alias even if it is worse."""
    data: File = None
    """Where the measured curves are now, if they moved and the runs have to be evaluated again."""
    json: File = None
    """Write the version and the comparison here."""
    tracking_uri: Annotated[str | None, tyro.conf.arg(metavar="URI")] = None
    """MLflow store of the run and the registry; that of the run's folder, or the SQLite file in runs/, by default."""
    debug: bool = False
    """Show tracebacks."""
