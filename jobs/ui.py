"""`mcb ui`: an MLflow server on the local store, opened at the experiment."""

import os
import socket
import subprocess
import sys
import time
import webbrowser

from cluster.errors import UserError
from cluster.secrets import without_password
from cluster.tracking_store import EXPERIMENT, open_store, sqlite_file, store_uri
from jobs.arguments import UiOptions
from jobs.runs import default_tracking_uri

_START_S = 120.0
_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def open_ui(options: UiOptions) -> None:
    """Serve until Ctrl-C; raises `UserError` if there is nothing to show or the port is taken."""
    uri = store_uri(options.tracking_uri or default_tracking_uri())
    if uri.startswith("sqlite:") and not sqlite_file(uri).exists():
        raise UserError(
            f"there is no tracking store at {sqlite_file(uri)}: train a recipe first, or give --tracking-uri"
        )
    experiment = open_store(uri).get_experiment_by_name(EXPERIMENT)
    page = "" if experiment is None else f"/#/experiments/{experiment.experiment_id}/runs"
    if uri.startswith("http"):
        _show(f"{without_password(uri).rstrip('/')}{page}", options.browser)
        return
    if _answers(options.host, options.port):
        raise UserError(f"port {options.port} is in use: give another with --port")
    server = subprocess.Popen(
        server_command(options.host, options.port),
        env={**os.environ, **_ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": uri},  # a command line would show a password
    )
    try:
        deadline = time.monotonic() + _START_S
        while not _answers(options.host, options.port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"the MLflow server did not start (exit code {server.poll()}): see its messages above")
            time.sleep(0.2)
        _show(f"http://{options.host}:{options.port}{page}", options.browser)
        server.wait()
    except KeyboardInterrupt:
        print("the server ends", flush=True)
    finally:
        server.terminate()
        server.wait()


def server_command(host: str, port: int) -> list[str]:
    """The server: one process, the store of its environment read directly."""
    return [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]


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
