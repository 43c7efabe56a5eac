"""A unit test neither starts a process nor waits for a real clock: tests/process, tests/ros and tests/e2e may."""

import ast
from pathlib import Path

import pytest
from repository import ROOT

UNIT = ROOT / "tests" / "unit"
FORBIDS = UNIT / "conftest.py"
PROCESS_MODULES = {"subprocess", "multiprocessing", "pty", "serial", "so100_driver_testing.twin_process"}
FORBIDDEN_CALLS = {
    "time.sleep", "os.fork", "os.forkpty", "os.openpty", "os.posix_spawn", "os.posix_spawnp", "os.system",
}  # fmt: skip
FORBIDDEN_NAMES = {"Popen", "TwinProcess", "ProcessPoolExecutor"}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute or a name; empty for any other expression."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def process_modules(names: list[str]) -> set[str]:
    return {module for module in PROCESS_MODULES for name in names if name == module or name.startswith(module + ".")}


def violations(text: str) -> set[str]:
    """Which processes, terminals and sleeps a module's code uses, as short names."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import():
                found |= process_modules([alias.name for alias in node.names])
            case ast.ImportFrom(module=str(module)):
                found |= process_modules([module, *(f"{module}.{alias.name}" for alias in node.names)])
                calls = {f"{module}.{alias.name}" for alias in node.names}
                found |= calls & FORBIDDEN_CALLS
                found |= {alias.name for alias in node.names} & FORBIDDEN_NAMES
            case ast.Call(func=func):
                name = dotted(func)
                found |= {name} & FORBIDDEN_CALLS
                found |= {name.rsplit(".", 1)[-1]} & FORBIDDEN_NAMES
    return found


@pytest.mark.parametrize("path", sorted(UNIT.rglob("*.py")), ids=lambda path: str(path.relative_to(UNIT)))
def test_a_unit_test_starts_no_process_and_does_not_sleep(path: Path):
    found = violations(path.read_text(encoding="utf-8"))
    if path == FORBIDS:
        found -= {"subprocess", "multiprocessing"}  # it names them to forbid them
    assert not found, f"{path.name} uses {sorted(found)}: move the test to tests/process"


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import subprocess", {"subprocess"}),
        ("def test():\n    import multiprocessing.pool", {"multiprocessing"}),
        ("from subprocess import Popen", {"subprocess", "Popen"}),
        ("from time import sleep", {"time.sleep"}),
        ("import time\ntime.sleep(0.1)", {"time.sleep"}),
        ("import os\nos.openpty()", {"os.openpty"}),
        ("module.subprocess.Popen([])", {"Popen"}),
        ("import serial.tools", {"serial"}),
        ("from so100_driver_testing.rig import TwinProcess", {"TwinProcess"}),
        ("text = 'time.sleep(1)'\nclock.sleep(1)\nmonkeypatch.setattr(study.subprocess, 'run', run)", set()),
    ],
)  # fmt: skip
def test_the_rule_sees_what_it_forbids(code, named):
    assert violations(code) == named
