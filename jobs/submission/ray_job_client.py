"""The jobs of a Ray cluster: Ray's own client behind a few questions, its failures as errors that a user can mend."""

import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import requests
from ray.job_submission import JobDetails, JobSubmissionClient

from cluster.errors import ClusterError, UserError
from jobs.submission.job_exit import JobState
from jobs.submission.ray_dashboard import Dashboard

_TIMEOUT_S = 60.0
_OVERRIDES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray would take these before the address that it is given
for name in ("sdk", "dashboard_sdk"):
    logging.getLogger(f"ray.dashboard.modules.{'job.' if name == 'sdk' else ''}{name}").setLevel(logging.WARNING)


class _Client(JobSubmissionClient):
    """Ray's client, which waits for no answer longer than a minute."""

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> requests.Response:
        return super()._do_request(method, endpoint, **{"timeout": _TIMEOUT_S, **kwargs})


class JobClient:
    """Asks the cluster of `dashboard`; all methods raise `ClusterError` if it no longer answers."""

    def __init__(self, dashboard: Dashboard) -> None:
        self.url = dashboard.url
        without = {name: value for name, value in os.environ.items() if name not in _OVERRIDES}
        with patch.dict(os.environ, without, clear=True), self._errors():
            self._client = _Client(dashboard.url, headers=dict(dashboard.headers))

    def submit(
        self,
        job: str,
        entrypoint: str,
        runtime_env: Mapping[str, object],
        metadata: Mapping[str, str],
        resources: Mapping[str, float | int],
    ) -> None:
        """Upload what the runtime environment names and start the job under the id `job`."""
        with self._errors():
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=job,
                runtime_env=dict(runtime_env),
                metadata=dict(metadata),
                **dict[str, Any](resources),
            )

    def all(self) -> list[JobDetails]:
        """The jobs that were submitted, the newest first."""
        with self._errors():
            found = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: -(job.start_time or 0))

    def details(self, job: str) -> JobDetails:
        """All that is known of a job; raises `UserError` if there is none of that name."""
        with self._errors(job):
            return self._client.get_job_info(job)

    def state(self, job: str) -> JobState:
        """Where a job stands; raises `UserError` if there is none of that name."""
        details = self.details(job)
        return JobState(str(details.status.value), details.driver_exit_code, details.message or "")

    def stop(self, job: str) -> bool:
        """Ask a job to end; whether it was running. Raises `UserError` if there is none of that name."""
        with self._errors(job):
            return self._client.stop_job(job)

    def logs(self, job: str) -> str:
        """All that a job wrote; raises `UserError` if there is none of that name."""
        with self._errors(job):
            return self._client.get_job_logs(job)

    async def tail(self, job: str) -> AsyncIterator[str]:
        """What a job writes, from its beginning to its end."""
        with self._errors(job):
            async for chunk in self._client.tail_job_logs(job):
                yield chunk

    @contextmanager
    def _errors(self, job: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, aiohttp.ClientError) as error:  # those of requests are OSError
            raise ClusterError(f"the cluster at {self.url} no longer answers ({error})") from error
        except (RuntimeError, ValueError) as error:
            if job and "does not exist" in str(error):
                raise UserError(f"{self.url} knows no job {job}: mcb jobs list shows those that there are") from error
            reason = str(error).strip().splitlines()[-1]  # the server sends its traceback
            raise ClusterError(f"the cluster at {self.url} refuses the request: {reason}") from error


def archive_file(folder: Path, content: bytes) -> Path:
    """The package as Ray's client takes it; it uploads one that the cluster has already no second time."""
    path = folder / "working_dir.zip"
    path.write_bytes(content)
    return path
