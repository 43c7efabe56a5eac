"""The printed address is one at which the page answers, and nothing is printed when the server has ended."""

import pytest

pytest.importorskip("nicegui", reason="bash requirements/setup.sh web")

from contextlib import asynccontextmanager
from socket import gethostname

from starlette.applications import Starlette

from grids_common.signals import StopRequest
from grids_rqt.view_model import Model
from grids_rqt.web import server
from grids_rqt.web.source import WebSource


@pytest.mark.parametrize(
    ("host", "token", "address"),
    [
        ("127.0.0.1", "", "http://localhost:8080/"),
        ("127.0.0.2", "", "http://127.0.0.2:8080/"),
        ("::1", "", "http://[::1]:8080/"),
        ("192.168.1.7", "abcdef0123", "http://192.168.1.7:8080/?token=abcdef0123"),
        ("0.0.0.0", "abcdef0123", f"http://{gethostname()}:8080/?token=abcdef0123"),
        ("::", "abcdef0123", f"http://{gethostname()}:8080/?token=abcdef0123"),
    ],
)
def test_the_address_is_that_of_the_page(host, token, address):
    assert server.address(host, 8080, token) == address


def test_a_server_that_ends_while_it_starts_is_told(monkeypatch, capsys):
    @asynccontextmanager
    async def fails(_):
        raise OSError("no file descriptors")
        yield

    monkeypatch.setattr(server, "application", lambda source, token: Starlette(lifespan=fails))
    with (
        server.listen("127.0.0.1", 0, "") as place,
        StopRequest() as stop,
        pytest.raises(RuntimeError, match="ended while it started"),
    ):
        server.serve(WebSource(Model(("front",)), lambda: 0, None), place, "", stop)
    assert "showing" not in capsys.readouterr().out
