"""`mcb ui`: an MLflow server on the local store, opened at the experiment."""

import os
import socket
import subprocess
import sys
import time
import webbrowser
from typing import TYPE_CHECKING

from cluster.errors import UserError
from cluster.experiment_view import VIEW, experiment_tags
from cluster.interruption import Interruption, interruption
from cluster.secrets import without_password
from cluster.tracking_store import EXPERIMENT, missing_file, open_store, store_uri
from jobs.arguments import UiOptions
from jobs.runs.folder import default_tracking_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_START_S = 120.0
_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def open_ui(options: UiOptions) -> None:
    """Serve until Ctrl-C or SIGTERM; raises `UserError` if there is nothing to show or the port is taken."""
    named = options.tracking_uri or default_tracking_uri()
    uri = store_uri(named)
    if file := missing_file(named):
        raise UserError(f"there is no tracking store at {file}: train a recipe first, or give --tracking-uri")
    page = _page(open_store(named), is_own=not uri.startswith("http"))
    if uri.startswith("http"):
        _show(f"{without_password(uri).rstrip('/')}{page}", options.browser)
        return
    if _answers(options.host, options.port):
        raise UserError(f"port {options.port} is in use: give another with --port")
    with interruption() as interrupted:
        server = subprocess.Popen(
            server_command(options.host, options.port),
            env={**os.environ, **_ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": uri},  # a command line would show a password
        )
        try:
            _wait_for_answer(server, options, interrupted)
            if not interrupted:
                _show(f"http://{options.host}:{options.port}{page}", options.browser)
            while not interrupted and server.poll() is None:
                time.sleep(0.2)
            if not interrupted:
                raise UserError(
                    f"the MLflow server ended by itself (exit code {server.poll()}): see its messages above"
                )
            print("the server ends", flush=True)
        finally:
            server.terminate()
            server.wait()


def _wait_for_answer(server: subprocess.Popen, options: UiOptions, interrupted: Interruption) -> None:
    """Return when the server answers or the user has enough; raises `UserError` if it does not start."""
    deadline = time.monotonic() + _START_S
    while not interrupted and not _answers(options.host, options.port):
        if server.poll() is not None or time.monotonic() > deadline:
            raise UserError(f"the MLflow server did not start (exit code {server.poll()}): see its messages above")
        time.sleep(0.2)


def server_command(host: str, port: int) -> list[str]:
    """The server: one process, the store of its environment read directly."""
    return [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]


def _page(client: "MlflowClient", is_own: bool) -> str:
    """Where the runs are; the experiment of a store of one's own, if it was made before there was a view, gets one."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return ""
    missing = {name: text for name, text in experiment_tags().items() if experiment.tags.get(name) != text}
    if is_own:
        for name, text in missing.items():
            client.set_experiment_tag(experiment.experiment_id, name, text)
    view = "" if missing and not is_own else f"&viewStateShareKey={VIEW}"
    return f"/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning{view}"


def _show(address: str, browser: bool) -> None:
    print(f"MLflow UI at {address} (Ctrl-C ends it)", flush=True)
    if browser:
        webbrowser.open(address)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
