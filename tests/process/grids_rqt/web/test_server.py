"""`./grids view --web` of a recording as a process: what it serves, to whom, offline, at both sizes of window."""

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from browser import PHONE, WIDE, browser, on_top
from synthetic_bag import record
from waiting import wait_for

pytest.importorskip("nicegui", reason="bash requirements/setup.sh web")

pytestmark = pytest.mark.timeout(240)
VIEW = [sys.executable, "-m", "grids_bringup.cli", "view", "--web"]
TOKEN = "abcdef0123"


def refused(*words: str) -> tuple[int, str]:
    done = subprocess.run([*VIEW, *words], capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("recording") / "episode", 1.5)


@contextmanager
def served(*words: object):
    """The address of a page, whose process has to end by itself and without a word when it is asked to."""
    command = [*VIEW, "--port", "0", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert " at http://" in line, process.stderr.read()
        yield line.split(" at ")[1].strip()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (0, "")
    finally:
        process.kill()
        process.wait()


def get(address: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    try:
        request = urllib.request.Request(address, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_recording_is_shown_offline_at_both_sizes(recording):
    with served(recording) as address, browser() as show:
        status, jpeg = get(f"{address}camera/front?layers=rings")
        assert status == 200
        assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (480, 640, 3)
        assert get(f"{address}camera/none") == (204, b"")
        outside: list[str] = []
        for size in (WIDE, PHONE):
            page = show(address, size, outside)
            for camera in ("front", "wrist"):
                page.wait_for_selector(f"img.seen[data-camera={camera}]")
            page.get_by_text("RECORDING", exact=True).wait_for()
            page.wait_for_function("document.querySelectorAll('.nicegui-echart canvas').length == 6")
            assert page.locator("#stop").is_disabled()
            at_the_end = get(f"{address}camera/front")[1]
            box = page.locator(".q-slider").bounding_box()
            page.mouse.click(box["x"] + 0.4 * box["width"], box["y"] + box["height"] / 2)
            wait_for(lambda now=at_the_end: get(f"{address}camera/front")[1] not in (now, b""))
            page.mouse.click(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2)
            wait_for(lambda now=at_the_end: get(f"{address}camera/front")[1] == now)
            assert page.evaluate("document.documentElement.scrollWidth") == size[0]
            page.evaluate("scrollTo(0, 1e6)")
            assert on_top(page, "#stop")
            page.close()
        assert outside == []


def test_with_a_token_only_its_holder_sees_the_page(recording):
    with served(recording, "--token", TOKEN) as address:
        home = address.split("?")[0]
        assert address.endswith(f"?token={TOKEN}")
        assert get(f"{home}?token=wrong1234") == (
            401, b"expected the token in the address that ./grids view printed, got a wrong one\n",
        )  # fmt: skip
        assert get(f"{home}estop", "POST")[0] == 401
        assert get(f"{home}camera/front")[0] == 401
        cookie = {"Cookie": f"grids_view_{urlsplit(home).port}={TOKEN}"}
        assert get(f"{home}camera/front", **cookie)[0] == 200
        assert get(f"{home}estop", "POST", **cookie, Origin="http://evil.example")[0] == 403


def test_what_cannot_be_served_is_told_in_one_sentence(tmp_path, recording):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = refused("--port", str(port), str(recording))
        why = f"cannot serve at 127.0.0.1, port {port}: Address already in use: choose another --port or --host"
        assert (code, said) == (1, f"grids view: {why}\n")
    code, said = refused("--port", "0", str(tmp_path / "none"))
    assert (code, said) == (1, f"grids view: expected a run folder or a bag, found nothing at {tmp_path / 'none'}\n")
    code, said = refused("--host", "0.0.0.0")
    assert code == 1
    assert said.startswith("grids view: --host 0.0.0.0: expected a token too")
