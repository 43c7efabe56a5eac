"""The viewer's demo run: start, end, and signal handlers that are restored."""

import signal
import sys
import time

import pytest

from grids_rqt.feeds.demo import DemoResult, DemoRun

DEPLOY = """#!{python}
import sys
from pathlib import Path
folder = Path(next(word for word in sys.argv if word.startswith("output:="))[len("output:="):])
{body}
"""
ENDS = {
    "time limit": (
        'folder.mkdir(); (folder / \'summary.json\').write_text(\'{"ended_by": "time limit", "failure": ""}\')\n'
        "sys.exit(3)",
        DemoResult(True, "the demo run has ended: time limit. To start another one: ./grids view --demo"),
    ),
    "failure": (
        'folder.mkdir(); (folder / \'summary.json\').write_text(\'{"ended_by": "failure", "failure": "no arm"}\')\n'
        "sys.exit(1)",
        DemoResult(False, "the demo run ended with code 1: no arm"),
    ),
    "refused": (
        "print('one'); print('no such policy'); sys.exit(2)",
        DemoResult(False, "the demo run ended with code 2: one / no such policy"),
    ),
    "silent": ("", DemoResult(False, "the demo run ended with code 0: no output")),
}


@pytest.fixture
def deploy(tmp_path, monkeypatch):
    """Writes what stands in for `./grids deploy`."""
    monkeypatch.setenv("GRIDS_ROOT", str(tmp_path))
    monkeypatch.setenv("ROS_DOMAIN_ID", "0")  # DemoRun sets it: put back afterwards

    def write(body):
        script = tmp_path / "grids"
        script.write_text(DEPLOY.format(python=sys.executable, body=body), encoding="utf-8")
        script.chmod(0o755)

    return write


@pytest.mark.parametrize("name", ENDS)
def test_a_run_that_is_over_says_how_it_ended(deploy, name):
    body, expected = ENDS[name]
    deploy(body)
    demo = DemoRun(policy="demo", task="reach", limit_s=1.0)
    try:
        end = time.monotonic() + 30
        while demo.result() is None:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert demo.result() == expected
    finally:
        demo.close()


def test_closing_ends_a_run_that_is_under_way(deploy):
    deploy("import time; print('up', flush=True); time.sleep(60)")
    demo = DemoRun(policy="demo", task="reach", limit_s=1.0)
    end = time.monotonic() + 30
    while demo.log.read_text() != "up\n":
        assert time.monotonic() < end
        time.sleep(0.02)
    assert demo.result() is None
    begin = time.monotonic()
    demo.close()
    assert time.monotonic() - begin < 15
    assert not demo.log.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_becomes_a_request_and_its_former_handler_comes_back(number):
    pytest.importorskip("qtpy", reason="pip install -r requirements/view.txt")
    from grids_common.signals import StopRequest

    former = signal.signal(number, signal.SIG_DFL)
    try:
        with StopRequest() as stop:
            assert stop.requested == ""
            signal.raise_signal(number)
            assert stop.requested == signal.Signals(number).name
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, former)


def test_a_hangup_that_nohup_ignores_stays_ignored():
    pytest.importorskip("qtpy", reason="pip install -r requirements/view.txt")
    from grids_common.signals import StopRequest

    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.requested == ""
    finally:
        signal.signal(signal.SIGHUP, former)
