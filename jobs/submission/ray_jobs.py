"""`mcb jobs`: the jobs of a Ray cluster, listed, followed and stopped."""

import os
import shlex
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from cluster.errors import ClusterError
from jobs.errors import Interrupted
from jobs.evaluation.report import new_console
from jobs.submission.arguments import JobLogsOptions, JobOptions, JobsListOptions
from jobs.submission.job_exit import LOST, JobState, exit_code, in_words
from jobs.submission.job_logs import LostJob, follow
from jobs.submission.plan import RUN_KEY
from jobs.submission.ray_dashboard import dashboard_url, find_dashboard

if TYPE_CHECKING:
    from jobs.submission.ray_job_client import JobClient

_STOP_S = 90.0  # the job has 60 to save what it did


def list_jobs(options: JobsListOptions) -> int:
    """Print a table of all jobs."""
    client = _client(options.address)
    table = Table("job", "state", "code", "begun", "took", "run", box=None, pad_edge=False)
    for job in client.all():
        state = JobState(str(job.status.value), job.driver_exit_code)
        begun = (job.start_time or 0) / 1000
        took = ((job.end_time or 1000 * time.time()) / 1000) - begun
        table.add_row(
            job.submission_id,
            state.status.lower(),
            str(exit_code(state)) if state.has_ended else "",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(begun)),
            str(timedelta(seconds=round(took))),
            (job.metadata or {}).get(RUN_KEY, job.entrypoint if not job.metadata else ""),
        )
    console = new_console()
    console.print(table if table.row_count else f"no job was submitted to {client.url}")
    return 0


def show_status(options: JobOptions) -> int:
    """Print where a job stands; the exit code says it too."""
    state = _client(options.address).state(options.job)
    new_console().print(in_words(options.job, state), soft_wrap=True)
    return exit_code(state)


def show_logs(options: JobLogsOptions) -> int:
    """Print a job's log, to its end if told so."""
    client = _client(options.address)
    console = new_console()
    if options.follow:
        client.state(options.job)  # refuses a name that no job has
        return follow_job(console, client, options.job)
    _write(console, client.logs(options.job))
    return 0


def stop_job(options: JobOptions) -> int:
    """Ask a job to save and end, and wait for that; raises `ClusterError` if it does not."""
    client = _client(options.address)
    console = new_console()
    if not client.stop(options.job):
        console.print(f"there is nothing to stop: {in_words(options.job, client.state(options.job))}", soft_wrap=True)
        return 0
    deadline = time.monotonic() + _STOP_S
    while not (state := client.state(options.job)).has_ended:
        if time.monotonic() > deadline:
            raise ClusterError(f"job {options.job} has not ended {_STOP_S:.0f} s after it was asked to")
        time.sleep(0.5)
    console.print(f"{in_words(options.job, state)}; the same mcb submit again goes on", soft_wrap=True)
    return 0


def follow_job(console: Console, client: "JobClient", job: str) -> int:
    """Stream a job's log and return the exit code that says how it ended; raises `Interrupted` after Ctrl-C."""
    try:
        state = follow(client, job, lambda text: _write(console, text))
    except LostJob as error:
        print(f"error: {error}", file=sys.stderr)
        return LOST
    except KeyboardInterrupt:
        at = shlex.quote(client.url)
        raise Interrupted(
            f"the job goes on; follow it with\n  mcb jobs logs {job} --follow --address {at}\n"
            f"stop it with\n  mcb jobs stop {job} --address {at}"
        ) from None
    console.print(in_words(job, state), soft_wrap=True)
    return exit_code(state)


def _client(address: str | None) -> "JobClient":
    found = find_dashboard(dashboard_url(address, os.environ))
    from jobs.submission.ray_job_client import JobClient  # a second to import

    return JobClient(found)


def _write(console: Console, text: str) -> None:
    console.print(text, end="", soft_wrap=True, markup=False, emoji=False)
