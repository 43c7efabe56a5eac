"""`./grids test` fails when a check of the code fails, says which, and still ends with pytest's closing line."""

import sys

import pytest

from grids_bringup.cli import testing
from grids_bringup.cli.gates import GATES, Gate, run_gates

PASSES = Gate("kind check", ("-c", ""), "nothing to do")
FAILS = Gate("strict check", ("-c", "import sys; print('line 1 is wrong', flush=True); sys.exit(3)"), "correct line 1")


def gate(name: str) -> Gate:
    return next(gate for gate in GATES if gate.name == name)


def test_each_gate_that_fails_is_named_with_its_remedy(tmp_path, capfd):
    assert run_gates(tmp_path, (PASSES, FAILS)) == ["strict check failed (exit status 3): correct line 1"]
    printed = capfd.readouterr().out
    assert "kind check: passed" in printed
    assert "line 1 is wrong" in printed
    assert "strict check: failed" in printed


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("ruff check", "A = 1\n", "import os\n"),
        ("ruff format", "A = 1\n", "A=1\n"),
        ("pyright", "A: int = 1\n", "A: int = 'one'\n"),
    ],
)
def test_a_gate_passes_good_code_and_fails_bad_code(name, good, bad, tmp_path):
    (tmp_path / "module.py").write_text(good)
    assert run_gates(tmp_path, (gate(name),)) == []
    (tmp_path / "module.py").write_text(bad)
    assert [line.split(" failed")[0] for line in run_gates(tmp_path, (gate(name),))] == [name]


def run_in_child(tmp_path, argv: list[str], failures: list[str]) -> tuple[int, str]:
    """`./grids test ARGV` in a folder with one passing unit test, its gates replaced by their outcome."""
    import os
    import subprocess

    (tmp_path / "tests" / "unit").mkdir(parents=True)
    for level in ("process", "ros", "e2e"):
        (tmp_path / "tests" / level).mkdir()
    (tmp_path / "tests" / "unit" / "test_one.py").write_text("def test_one(): pass\n")
    program = f"""
import sys
from grids_bringup.cli import testing
testing.run_gates = lambda root: {failures!r}
sys.exit(testing.main({argv!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "GRIDS_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_failed_gate_fails_a_run_whose_tests_pass_and_the_closing_line_is_last(tmp_path):
    status, printed = run_in_child(tmp_path, [], ["strict check failed: correct line 1"])
    assert status == 1
    assert "strict check failed: correct line 1" in printed
    assert "1 passed" in printed.splitlines()[-1]


def test_without_failures_the_run_passes(tmp_path):
    status, printed = run_in_child(tmp_path, ["-q"], [])
    assert status == 0
    assert "1 passed" in printed.splitlines()[-1]


def test_with_paths_given_the_gates_do_not_run(tmp_path):
    status, _ = run_in_child(tmp_path, ["tests/unit"], ["strict check failed: correct line 1"])
    assert status == 0


@pytest.mark.parametrize(("failures", "status"), [([], 0), (["strict check failed: correct line 1"], 1)])
def test_lint_runs_the_gates_alone(failures, status, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GRIDS_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(testing, "run_gates", lambda root: failures)
    monkeypatch.setattr(testing, "_run_pytest", lambda *_: pytest.fail("pytest was started"))
    assert testing.main(["lint"]) == status
    assert capsys.readouterr().out.splitlines() == failures
