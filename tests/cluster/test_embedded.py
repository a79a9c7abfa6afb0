import socket

import pytest

from cluster.embedded import _connect, _warn_of_sharing
from cluster.errors import ClusterError


@pytest.mark.parametrize("address", ["http://head:8265", "https://ray.example"])
def test_a_dashboards_address_is_no_cluster_to_join(address):
    with pytest.raises(ClusterError, match=f"RAY_ADDRESS={address} is a dashboard's: submit to it with mcb submit"):
        _connect(address)


def test_a_cluster_that_is_not_there_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(ClusterError, match=f"no Ray cluster answers at RAY_ADDRESS=127.0.0.1:{port}: start it"):
        _connect(f"127.0.0.1:{port}")


def test_more_processes_than_processors_are_started_and_spoken_of(caplog: pytest.LogCaptureFixture):
    _warn_of_sharing(2, 2)
    assert not caplog.text
    _warn_of_sharing(64, 2)
    assert "64 processors are asked for, and this machine has 2" in caplog.text
