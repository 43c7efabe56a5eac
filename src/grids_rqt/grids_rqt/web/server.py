"""`./grids view --web`: serves the page from a thread of its own until a stop signal arrives."""

import asyncio
import logging
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict

import uvicorn
from fastapi import FastAPI
from nicegui import ui
from starlette.responses import JSONResponse, Response

from grids_common.signals import StopRequest
from grids_rqt.drawing import LAYERS
from grids_rqt.web.access import Guard, bind_problem
from grids_rqt.web.page import Page
from grids_rqt.web.source import WebSource

RECONNECT_S = 20.0  # a busy computer or a phone's radio may be silent for seconds
VIEWPORT = "width=device-width, initial-scale=1, interactive-widget=resizes-content"  # the keyboard covers no stop


def application(source: WebSource, token: str) -> FastAPI:
    """The page with its images and its stop."""
    app = FastAPI(openapi_url=None)

    @app.post("/estop")
    async def estop() -> JSONResponse:
        return JSONResponse(asdict(await asyncio.to_thread(source.stop)))

    @app.get("/alive")
    async def alive() -> Response:
        return Response(status_code=204)

    @app.get("/camera/{name}")
    def camera(name: str, layers: str = "") -> Response:  # in a worker thread: drawing takes milliseconds
        jpeg = source.jpeg(name, frozenset(layers.split(",")) & frozenset(LAYERS))
        if jpeg is None:
            return Response(status_code=204)  # none so far: the page asks again
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    ui.run_with(
        app, root=lambda: Page(source), title="GridS", viewport=VIEWPORT, dark=True, tailwind=False,
        binding_refresh_interval=None, show_welcome_message=False,
        reconnect_timeout=RECONNECT_S, message_history_length=0,  # a page that missed something loads again
    )  # fmt: skip
    app.add_middleware(Guard, token=token)
    return app


def listen(host: str, port: int, token: str) -> socket.socket:
    """A bound socket. Raises RuntimeError if the page may not be served there, or the port is taken."""
    if problem := bind_problem(host, token):
        raise RuntimeError(problem)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        place = socket.socket(family, socket.SOCK_STREAM)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
        place.listen()
    except OSError as error:
        why = f"cannot serve at {host}, port {port}: {error.strerror}: choose another --port or --host"
        raise RuntimeError(why) from error
    return place


def address(host: str, port: int, token: str) -> str:
    """Where a browser finds the page that is served at this numeric address."""
    named = {"127.0.0.1": "localhost", "0.0.0.0": socket.gethostname(), "::": socket.gethostname()}
    name = named.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/{f'?token={token}' if token else ''}"


def serve(source: WebSource, place: socket.socket, token: str, stop: StopRequest) -> int:
    """Serve until a stop signal; returns the exit code. RuntimeError if the server ends while it starts."""
    logging.getLogger("nicegui").setLevel(logging.WARNING)
    config = uvicorn.Config(
        application(source, token), log_level="warning", access_log=False, timeout_graceful_shutdown=1, lifespan="on"
    )
    server = uvicorn.Server(config)

    def run() -> None:
        with suppress(SystemExit):  # after it has logged why it cannot start
            server.run(sockets=[place])

    thread = threading.Thread(target=run, name="grids_view_web", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    if not server.started:
        raise RuntimeError("the page's server ended while it started: its reason is above")
    where = address(*place.getsockname()[:2], token)
    sys.stdout.write(f"showing {source.title or 'the robot'} at {where}\n")
    sys.stdout.flush()
    while not stop.requested and thread.is_alive():
        time.sleep(0.1)
    server.should_exit = True
    thread.join(5.0)
    return 0 if stop.requested else 1
