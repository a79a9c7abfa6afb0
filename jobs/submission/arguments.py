"""The options of `mcb submit` and `mcb jobs`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs.arguments import EvaluateOptions, File, Folder, TrainOptions, TuneOptions


@dataclass(frozen=True)
class Submission:
    """What submitting needs beside the command that runs on the cluster, and what means something else there."""

    address: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Dashboard of the Ray cluster, http://HOST:8265; RAY_API_SERVER_ADDRESS by default."""
    storage: Annotated[str | None, tyro.conf.arg(metavar="PLACE")] = None
    """Where runs are kept that all nodes reach: a shared folder or a URL (s3://...); MCB_STORAGE by default."""
    credentials: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Environment variables that the cluster must have, by name; their values never travel."""
    exclude: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN ...")] = ()
    """Files that are not uploaded, beside environments, caches, runs/, data/ and what git ignores."""
    follow: bool = False
    """Stream the job's log and end with its exit code."""
    entrypoint_num_cpus: float = 0.0
    """CPUs that the driver reserves; with 0 of everything it runs on the head node."""
    entrypoint_num_gpus: float = 0.0
    """GPUs that the driver reserves."""
    entrypoint_memory_gb: float = 0.0
    """Memory that the driver reserves, in units of 1e9 bytes."""
    any_version: bool = False
    """Submit to a cluster of another Ray or Python version."""
    out: Folder = None
    """Folder of the run on the cluster, in place of --storage and --name."""
    tracking_uri: Annotated[str | None, tyro.conf.arg(metavar="URI")] = None
    """MLflow tracking store as the cluster reaches it; the cluster's variable MLFLOW_TRACKING_URI by default."""
    json: tyro.conf.Suppress[File] = None
    resume: tyro.conf.Suppress[bool] = False
    auto_resume: tyro.conf.Suppress[bool] = False


@dataclass(frozen=True)
class SubmitTrainOptions(Submission, TrainOptions):
    """Run mcb train as a job of a Ray cluster. The same --name again continues the run."""

    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the run below --storage; RECIPE-TIME by default."""


@dataclass(frozen=True)
class SubmitTuneOptions(Submission, TuneOptions):
    """Run mcb tune as a job of a Ray cluster. The same --name again continues the search."""

    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the search below --storage; RECIPE-SPACE-TIME by default."""


@dataclass(frozen=True)
class SubmitEvaluateOptions(Submission, EvaluateOptions):
    """Run mcb evaluate as a job of a Ray cluster: RUN is a folder of the cluster's, a URL, or an MLflow id."""

    out: Folder = None
    """Write result.json and the figures here, on the cluster."""
    storage: tyro.conf.Suppress[str | None] = None


@dataclass(frozen=True)
class JobsListOptions:
    """List the jobs of a Ray cluster, the newest first."""

    address: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Dashboard of the Ray cluster; RAY_API_SERVER_ADDRESS by default."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class JobOptions:
    """Show where a job stands, or stop it."""

    job: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="JOB")]
    """The job, as mcb submit and mcb jobs list name it."""
    address: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Dashboard of the Ray cluster; RAY_API_SERVER_ADDRESS by default."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class JobLogsOptions(JobOptions):
    """Print what a job has written."""

    follow: bool = False
    """Go on until the job ends, and end with its exit code."""
