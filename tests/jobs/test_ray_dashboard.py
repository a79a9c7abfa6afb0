"""What stands at an address, against small HTTP servers that answer as a Ray dashboard does, or do not."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from platform import python_version
from socketserver import BaseRequestHandler, TCPServer

import pytest

from cluster.errors import ClusterError
from jobs.cli import main
from jobs.errors import UsageError
from jobs.submission import ray_dashboard
from jobs.submission.ray_dashboard import Dashboard, dashboard_url, find_dashboard, find_token, require_same_versions

_VERSIONS = {"data": {"rayVersion": version("ray"), "pythonVersion": python_version()}}


@contextmanager
def _server(answers: Mapping[str, object], token: str | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            given = self.headers.get("Authorization")
            if self.path != "/api/authentication_mode" and token is not None and given != f"Bearer {token}":
                self.send_error(401 if given is None else 403)
                return
            if self.path not in answers:
                self.send_error(404)
                return
            answer = answers[self.path]
            self.send_response(200)
            self.end_headers()
            self.wfile.write((answer if isinstance(answer, str) else json.dumps(answer)).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with _serving(HTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


@contextmanager
def _serving(server: TCPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _ray(mode: str = "disabled", versions: object = _VERSIONS, token: str | None = None):
    answers = {"/api/authentication_mode": {"authentication_mode": mode}, "/api/v0/cluster_metadata": versions}
    return _server(answers, token)


@pytest.fixture(autouse=True)
def no_token(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_an_open_cluster_is_found_with_its_versions():
    with _ray() as url:
        assert find_dashboard(url) == Dashboard(url, {}, version("ray"), python_version())


def test_a_token_is_read_from_where_ray_reads_it(tmp_path, monkeypatch):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    (tmp_path / "file").write_text(" file\n")
    places = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "file"), "RAY_AUTH_TOKEN": "variable"}
    found = [find_token(dict(list(places.items())[:number]), tmp_path) for number in range(3)]
    assert [token and token.value for token in found] == ["home", "file", "variable"]
    assert find_token({}, tmp_path / "nobody") is None
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cret")
    with _ray("token", token="s3cret") as url:
        assert find_dashboard(url).headers == {"Authorization": "Bearer s3cret"}


def test_a_missing_and_a_wrong_token_are_told_apart_and_never_shown(tmp_path, monkeypatch):
    with _ray("token", token="s3cret") as url:
        with pytest.raises(ClusterError, match="asks for a token, and there is none here"):
            find_dashboard(url)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wr0ng")
        with pytest.raises(ClusterError, match="refuses the token in RAY_AUTH_TOKEN:") as refusal:
            find_dashboard(url)
        assert "wr0ng" not in str(refusal.value)
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "gone"))
        with pytest.raises(ClusterError, match=r"gone cannot be read \(No such file"):
            find_dashboard(url)


def test_what_does_not_answer_and_what_is_no_dashboard_is_said(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(ray_dashboard, "_TIMEOUT_S", 0.2)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match=r"no Ray cluster answers at .* \(timed out\)"):
            find_dashboard(url)
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at .*refused"):
        find_dashboard(url)
    pages = [{}, {"/api/authentication_mode": "<html>"}, {"/api/authentication_mode": ["a list"]}]
    for answers in pages:
        with _server(answers) as url, pytest.raises(ClusterError, match="is no dashboard of a Ray cluster"):
            find_dashboard(url)


def test_a_login_before_the_dashboards_own_and_a_server_of_another_protocol_are_said():
    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(401)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    class Mail(BaseRequestHandler):
        def handle(self):
            self.request.recv(1000)
            self.request.sendall(b"220 mail ready\r\n")

    servers = [
        (HTTPServer(("127.0.0.1", 0), Proxy), r"asks for a login before the dashboard's own \(a proxy\?\)"),
        (TCPServer(("127.0.0.1", 0), Mail), "is no dashboard of a Ray cluster"),
    ]
    for server, message in servers:
        with _serving(server) as url, pytest.raises(ClusterError, match=message):
            find_dashboard(url)


def test_other_versions_are_refused_with_both_names(capsys, tmp_path):
    major, minor, *_ = python_version().split(".")
    there = {"rayVersion": "2.1.0", "pythonVersion": f"{major}.{int(minor) - 1}.9"}
    words = ["submit", "train", "two-modes", "--storage", str(tmp_path)]
    with _ray(versions={"data": there}) as url:
        assert main([*words, "--address", url]) == 1
        found = find_dashboard(url)
    said = capsys.readouterr().err
    assert f"has Ray 2.1.0 and here is Ray {version('ray')}, Python {major}.{int(minor) - 1} and here is" in said
    require_same_versions(found._replace(ray=version("ray"), python=f"{major}.{minor}.999"))


@pytest.mark.parametrize("address", ["ray://head:10001", "http://", "file:///x"])
def test_addresses_of_other_kinds_are_refused(address):
    with pytest.raises(UsageError, match="must be that of the dashboard"):
        dashboard_url(address, {})
