"""`mcb submit`: a training, search or evaluation as a job of a Ray cluster."""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cluster.errors import UserError
from cluster.secrets import without_password
from jobs.evaluation.report import new_console
from jobs.submission.arguments import Submission
from jobs.submission.package import candidates, chosen, pack
from jobs.submission.plan import RUN_KEY, JobRequest, resources, runtime_environment
from jobs.submission.ray_dashboard import dashboard_url, find_dashboard, require_same_versions

if TYPE_CHECKING:
    from ray.job_submission import JobDetails


def submit(options: Submission, request: JobRequest) -> int:
    """Upload the working directory, start the job and say where to look; follow it if told so. Returns the exit code.

    Raises `UserError` for what cannot be submitted, `Interrupted` after Ctrl-C while following, when the job goes on.
    """
    root = Path.cwd()
    amounts = resources(options)
    found = find_dashboard(dashboard_url(options.address, os.environ))
    if not options.any_version:
        require_same_versions(found)
    paths = chosen(candidates(root, options.exclude), options.exclude, request.files)
    package = pack(root, paths)
    from jobs.submission.ray_job_client import JobClient, archive_file  # a second to import
    from jobs.submission.ray_jobs import follow_job

    client = JobClient(found)
    _require_idle(client.all(), request)
    job = request.new_id()
    with TemporaryDirectory() as folder:
        runtime_env = runtime_environment(archive_file(Path(folder), package), job)
        client.submit(job, request.entrypoint, runtime_env, request.metadata, amounts)
    console = new_console()
    size = f"{len(paths):,} files, {len(package) / 1e6:.1f} MB"
    console.print(f"job {job} is submitted, with {size} of {root}", soft_wrap=True)
    for label, text in _where_to_look(found.url, job, request).items():
        console.print(f"  {label:<10} {text}", soft_wrap=True)
    return follow_job(console, client, job) if options.follow else 0


def _require_idle(jobs: Sequence["JobDetails"], request: JobRequest) -> None:
    """Raise `UserError` if a job that has not ended writes to the same place."""
    for job in jobs:
        is_same = request.place is not None and (job.metadata or {}).get(RUN_KEY) == request.place
        if is_same and not job.status.is_terminal():
            raise UserError(
                f"job {job.submission_id} is at {request.place} already: follow it with mcb jobs logs "
                f"{job.submission_id} --follow, stop it with mcb jobs stop, or choose another --name"
            )


def _where_to_look(url: str, job: str, request: JobRequest) -> dict[str, str]:
    """Links and commands."""
    uri = request.tracking_uri
    store = f"the cluster's {uri}" if uri.startswith("$") else without_password(uri)
    return {
        **({} if request.place is None else {"run": request.place}),
        "dashboard": f"{url}/#/jobs/{job}",
        "MLflow": f"{store}, runs with the tag ray_job = {job}",
        "log": f"mcb jobs logs {job} --follow --address {url}",
        "stop": f"mcb jobs stop {job} --address {url}",
    }
