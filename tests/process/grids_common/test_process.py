"""Children that are polite, deaf, gone or parents themselves: each is ended, and nothing of it is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grids_common.process import Child, bound_to_parent

PATIENCE_S = 60.0  # only for a machine that is busy: what is waited for is noticed at once

POLITE = """
import signal, sys, time
def end(number, _):
    print("asked by", signal.Signals(number).name, flush=True)
    sys.exit(7)
signal.signal(signal.SIGINT, end)
print("up", flush=True)
time.sleep(600)
"""
DEAF = """
import signal, sys, time
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), lambda number, _: print("heard", signal.Signals(number).name, flush=True))
print("up", flush=True)
while True:
    time.sleep(600)
"""
# Starts a process in its own group that ignores everything but SIGKILL, tells its number, and waits.
WITH_GRANDCHILD = """
import subprocess, sys, time
ignore = "import signal, time; signal.signal(2, signal.SIG_IGN); signal.signal(15, signal.SIG_IGN);"
deaf = ignore + "print('x', flush=True); time.sleep(600)"
inner = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
inner.stdout.readline()
print("grandchild", inner.pid, flush=True)
if "stay" in sys.argv:
    time.sleep(600)
"""
PARENT = """
import sys, time
from pathlib import Path
from grids_common.process import Child
child = Child([sys.executable, "-c", "import time; time.sleep(600)"], log=Path(sys.argv[1]))
print(child.pid, flush=True)
time.sleep(600)
"""


def python(program: str, *words: str) -> list[str]:
    return [sys.executable, "-c", program, *words]


def until(condition) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def exists(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def start(tmp_path):
    """Child of a program, once it has written its first line; killed in the end."""
    children = []

    def begin(program: str, *words: str) -> Child:
        children.append(Child(python(program, *words), log=tmp_path / "log.txt"))
        until(lambda: children[-1].log.read_text().endswith("\n") or not children[-1].alive)
        return children[-1]

    yield begin
    for child in children:
        child.kill()


def test_a_child_that_answers_is_asked_once_and_its_code_returned(start):
    child = start(POLITE)
    assert child.code is None
    assert child.end(interrupt_s=PATIENCE_S) == 7
    assert child.code == 7
    assert child.last_words() == "up / asked by SIGINT"
    assert child.end() == 7, "ending it again changes nothing"


def test_one_that_ignores_sigint_gets_sigterm(start):
    child = start(DEAF, "SIGINT")
    assert child.end(interrupt_s=0.3, terminate_s=PATIENCE_S) == -signal.SIGTERM
    assert child.last_words(1) == "heard SIGINT"


def test_one_that_ignores_both_is_killed(start):
    child = start(DEAF, "SIGINT", "SIGTERM")
    assert child.end(interrupt_s=0.3, terminate_s=0.3) == -signal.SIGKILL
    assert child.last_words() == "up / heard SIGINT / heard SIGTERM"


def test_a_patience_of_0_leaves_the_signal_out(start):
    assert start(POLITE).end(interrupt_s=0, terminate_s=PATIENCE_S) == -signal.SIGTERM


def test_a_stopped_child_is_not_resumed(start):
    """POLITE answers SIGINT with 7: that it is killed instead shows that it did not run again."""
    child = start(POLITE)
    child.send(signal.SIGSTOP)
    assert child.end(interrupt_s=0.2, terminate_s=0.2) == -signal.SIGKILL


@pytest.mark.parametrize("how", ["stay", "leave"])
def test_a_grandchild_does_not_outlive_the_end(start, how):
    child = start(WITH_GRANDCHILD, how)
    grandchild = int(child.last_words().split()[-1])
    if how == "leave":
        assert child.wait(PATIENCE_S) == 0
    assert exists(grandchild)
    child.end(interrupt_s=PATIENCE_S)
    until(lambda: not exists(grandchild))


def test_one_that_ends_by_itself_leaves_its_code_and_last_words(start):
    child = start("import sys; print('one\\ntwo\\nthree\\nfour'); sys.exit(3)")
    assert child.wait(PATIENCE_S) == 3
    assert not child.alive
    assert child.last_words() == "two / three / four"
    child.send(signal.SIGINT)
    assert child.end() == 3
    assert start("").last_words() == "no output"


def test_waiting_for_one_that_runs_tells_so(start):
    child = start(POLITE)
    assert child.wait(0.05) is None
    assert child.alive


@pytest.mark.skipif(not bound_to_parent(), reason="needs setpriv of util-linux")
def test_a_child_ends_with_a_parent_that_is_killed(tmp_path):
    parent = subprocess.Popen(python(PARENT, str(tmp_path / "log")), stdout=subprocess.PIPE, text=True)
    with parent:
        child = int(parent.stdout.readline())
        assert exists(child)
        parent.kill()
    until(lambda: not exists(child))


def test_a_child_leads_its_own_session_so_that_ctrl_c_does_not_reach_it(start):
    child = start(POLITE)
    assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid != os.getsid(0)


def test_one_that_is_asked_answers_through_pipes(tmp_path):
    note = "print('seen', file=sys.stderr, flush=True)"
    echo = f"import sys\nfor line in sys.stdin: {note}; print(line.strip()[::-1], flush=True)"
    with Child(python(echo), log=tmp_path / "log", pipes=True) as child:
        child.stdin.write("abc\n")
        child.stdin.flush()
        assert child.stdout.readline() == "cba\n"
        assert child.alive
    assert "seen" in child.last_words(20)


def test_the_environment_is_the_callers_and_what_is_given(tmp_path):
    show = "import os; print(os.environ['ADDED'], 'PATH' in os.environ)"
    with Child(python(show), log=tmp_path / "log", environment={"ADDED": "yes"}) as child:
        assert child.wait(PATIENCE_S) == 0
        assert child.last_words() == "yes True"


def test_a_command_that_does_not_exist_is_an_error_at_once_or_a_code(tmp_path):
    if bound_to_parent():
        with Child(["/none/such"], log=tmp_path / "log") as child:
            assert child.wait(PATIENCE_S) == 127
            assert "/none/such" in child.last_words()
    else:
        with pytest.raises(FileNotFoundError):
            Child(["/none/such"], log=tmp_path / "log")
