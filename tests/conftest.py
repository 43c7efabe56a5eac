"""Runs before any test module: MuJoCo reads MUJOCO_GL once, when it is first imported."""

import shutil
import tempfile
from pathlib import Path

import pytest

from grids_sim.gl import choose_backend

HERE = Path(__file__).parent

choose_backend()


MAX_RERUNS = 3  # one noisy moment of the machine costs one or two tests; more than that is a fault of the code


class Reruns:
    """pytest plugin: names the tests that needed their second chance and fails a run with more than MAX_RERUNS."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def pytest_runtest_logreport(self, report) -> None:
        if report.outcome == "rerun":
            self._names.append(report.nodeid)

    def pytest_sessionfinish(self, session) -> None:
        if len(self._names) > MAX_RERUNS and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        count = len(self._names)
        if count == 0:
            return
        verdict = f"expected at most {MAX_RERUNS}: the run fails" if count > MAX_RERUNS else f"{MAX_RERUNS} are allowed"
        terminalreporter.section(f"{count} tests needed a second run ({verdict})", yellow=True)
        for name in self._names:
            terminalreporter.line(name)


def pytest_configure(config) -> None:
    config.pluginmanager.register(Reruns())


def pytest_collection_modifyitems(items) -> None:
    """Tests with real processes get a second chance on a noisy machine; `Reruns` counts who needed it."""
    for item in items:
        if item.path.is_relative_to(HERE / "ros") or item.path.is_relative_to(HERE / "e2e"):
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Workers take whole files in order; one of them takes all tests with real nodes, the last ones, by itself.

    Those tests keep time, so no two of them may run at once.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "nodes" if nodeid.startswith(("tests/ros/", "tests/e2e/")) else nodeid.split("::", 1)[0]

    return ByFile(config, log)


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A private, writable copy of the tiny checkpoint."""
    folder = tmp_path / "tiny"
    shutil.copytree(HERE / "data" / "oracle" / "tiny", folder)
    return folder


@pytest.fixture
def public_folder():
    """Not below pytest's own: that one is root's alone again whenever another pytest starts."""
    with tempfile.TemporaryDirectory(prefix="grids-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
